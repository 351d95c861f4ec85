"""Slices: the processes of one launch of torchrun, each of which searches its own slice of every pool."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

Search = Callable[[Float[Tensor, "Q E"], int], tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]]
"""Searches this process's slice for the best k of each query; every process gets the result of all slices."""
Share = Callable[[Search, Float[Tensor, "Q E"], int], tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]]
"""Searches all slices, given the search of this process's own."""

_END = -1
# Processes wait for the next search as long as it takes; one that dies closes its connections, which ends the wait.
_PATIENCE = timedelta(days=365)


class Slices:
    """The processes that share the pools of a server.

    The first process has the clients. For each search it sends the queries' vectors to the others, and all of them scan
    their slices at the same time. The pools have to be on every host under the same paths.
    """

    def __init__(self) -> None:
        self._lock, self._ended = threading.Lock(), False
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)

    @classmethod
    def of_launch(cls) -> "Slices | None":
        """The processes of this launch; None if torchrun has not started several."""
        return cls() if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ else None

    @property
    def is_first(self) -> bool:
        """Whether this process has the clients."""
        return dist.get_rank() == 0

    @property
    def num_processes(self) -> int:
        """How many processes there are."""
        return dist.get_world_size()

    def search(
        self, place: int, search: Search, vectors: Float[Tensor, "Q E"], k: int
    ) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
        """In the first process: search all slices of a pool.

        Args:
            place: The number of the pool, the same in all processes.
            search: Searches this process's slice.
            vectors: The queries' vectors.
            k: How many candidates to find.

        Raises:
            RuntimeError: If another process has died.
            ValueError: If a score is nan.
        """
        with self._lock:
            dist.broadcast(torch.tensor([place, *vectors.shape, k]), src=0)
            dist.broadcast(vectors.float().cpu().contiguous(), src=0)
            return search(vectors.float(), k)

    def follow(self, searches: Sequence[Search], device: torch.device) -> None:
        """In all other processes: search the own slices whenever the first process does, until it ends.

        Args:
            searches: What searches the own slice of each pool.
            device: Where the queries' vectors are put.

        Raises:
            RuntimeError: If the first process has died.
        """
        while True:
            dist.broadcast(told := torch.zeros(4, dtype=torch.int64), src=0)
            place, num_queries, dim, k = told.tolist()
            if place == _END:
                return
            dist.broadcast(vectors := torch.empty(num_queries, dim), src=0)
            with suppress(ValueError):  # all processes have the same result; the first one tells its client
                searches[place](vectors.to(device), k)

    def close(self) -> None:
        """In the first process: let all others end."""
        with self._lock:
            if not self._ended:
                self._ended = True
                dist.broadcast(torch.tensor([_END, 0, 0, 0]), src=0)
