"""Candidate encoding: each process encodes a share of a pool, and all end with what one would have found."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from rankers.lranker.candidate_encoding import encode_pool
from ranking.stores.candidate_pool import CandidatePool

NUM_PROCESSES = 3


class Texts(CandidatePool):
    """A pool of texts of different lengths that counts what is read of it."""

    def __init__(self, num_candidates: int) -> None:
        self._size, self.read = num_candidates, 0

    @property
    def num_candidates(self) -> int:
        return self._size

    def text(self, row: int) -> str:
        self.read += 1
        return chr(65 + row) * (1 + row * 7 % 5)


def tokenize(texts: Sequence[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


def embed(tokens: Tensor, lengths: Tensor) -> Tensor:
    return torch.stack([tokens.sum(dim=1), lengths], dim=1).float()


def encode(pool: Any, **options: Any) -> Tensor:
    return encode_pool(pool, tokenize, embed, torch.device("cpu"), **options)


def in_one_of_three(process: int, folder: Path, sizes: Sequence[int]) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=process, world_size=NUM_PROCESSES)
    for size in sizes:
        pool = Texts(size)
        torch.save((encode(pool, distributed=True), pool.read), folder / f"{size}-{process}")
    # Gloo may wait for ever for a process that has left before the others.
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_share_the_work_and_all_have_every_vector(tmp_path: Path) -> None:
    sizes = (1, 2, 3, 4, 10)
    with ProcessPoolExecutor(NUM_PROCESSES, multiprocessing.get_context("spawn")) as processes:
        args = range(NUM_PROCESSES), [tmp_path] * NUM_PROCESSES, [sizes] * NUM_PROCESSES
        list(processes.map(in_one_of_three, *args))
    for size in sizes:
        alone = encode(Texts(size))
        for process in range(NUM_PROCESSES):
            found, read = torch.load(tmp_path / f"{size}-{process}", weights_only=True)
            assert torch.equal(found, alone)
            assert read <= -(-size // NUM_PROCESSES)


@pytest.mark.parametrize("size", [1, 10])
def test_each_vector_is_that_of_its_own_text(size: int) -> None:
    lengths = [1 + row * 7 % 5 for row in range(size)]
    expected = [[(65 + row) * length, length] for row, length in enumerate(lengths)]
    assert encode(Texts(size)).tolist() == expected
