"""Two processes that share a pool find what one finds."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ranking.vectors import search
from ranking.vectors.search import top_k


def whole_numbers() -> tuple[Tensor, Tensor]:
    """40 queries and 700 candidates; many scores tie."""
    draw = torch.Generator().manual_seed(0)
    queries = torch.randint(-3, 4, (40, 5), generator=draw).float()
    return queries, torch.randint(-3, 4, (700, 5), generator=draw).half()


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(40, (count,), generator=draw), torch.randint(700, (count,), generator=draw)


def in_one_of_two(process: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=process, world_size=2)
    queries, candidates = whole_numbers()
    query, rows = pairs(100, 1)
    removed = torch.stack(pairs(400, 5), dim=1)
    for k in (7, 500):
        options = {"k": k, "query_index": query, "ranked": rows, "removed": removed, "distributed": True}
        found = search.search(queries, OwnHalf(candidates, process), **options)
        torch.save((*found[:2], *found.places), folder / f"{k}-{process}")
    candidates[-1] = torch.nan
    with pytest.raises(ValueError, match="nan"):
        top_k(queries, OwnHalf(candidates, process), 3, distributed=True)


class OwnHalf:
    """A pool of which this process can read one half only."""

    def __init__(self, candidates: Tensor, process: int) -> None:
        self.candidates, self.num_candidates, self.dtype = candidates, len(candidates), candidates.dtype
        self.start, self.stop = (0, 350) if process == 0 else (350, 700)

    def blocks(self, start: int = 0, stop: int | None = None, size: int = 65536) -> Any:
        assert (start, stop) == (self.start, self.stop)
        return iter(self.candidates[start:stop].split(size))

    def features(self, rows: Tensor) -> Tensor:
        assert self.start <= rows.min() <= rows.max() < self.stop
        return self.candidates[rows]


@pytest.mark.slow
def test_two_processes_that_share_a_pool_find_what_one_finds(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        list(executor.map(in_one_of_two, range(2), [tmp_path] * 2))
    queries, candidates = whole_numbers()
    query, rows = pairs(100, 1)
    removed = torch.stack(pairs(400, 5), dim=1)
    for k in (7, 500):
        expected = search.search(queries, candidates, k=k, query_index=query, ranked=rows, removed=removed)
        for process in range(2):
            found = torch.load(tmp_path / f"{k}-{process}", weights_only=True)
            assert all(torch.equal(a, b) for a, b in zip(found, (*expected[:2], *expected.places), strict=True))
