"""PoolTable: keeps a pool's vectors in the memory where scanning them is fastest."""

from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Float
from torch import Tensor

from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.search import inverse_norms

# A pool that needs at most this share of a GPU's free memory is kept on the GPU.
_RESIDENT = 0.6
# On a CPU, pools above this many bytes stay on disk and in the operating system's file cache.
_SMALL = 2**30


_tables: WeakKeyDictionary[CandidatePool, dict[torch.device, "PoolTable"]] = WeakKeyDictionary()


class PoolTable:
    """The vectors of a pool for computations on one device.

    Args:
        pool: The candidates.
        device: The device of the queries.
    """

    def __init__(self, pool: CandidatePool, device: torch.device) -> None:
        self._pool, self.device = ref(pool), device

    @property
    def pool(self) -> CandidatePool:
        """The candidates."""
        pool = self._pool()
        assert pool is not None, "the pool is gone"
        return pool

    @classmethod
    def of(cls, pool: CandidatePool, device: torch.device) -> "PoolTable":
        """The table of this pool on this device; all rankers share one table."""
        tables = _tables.setdefault(pool, {})
        return tables.setdefault(device, cls(pool, device))

    @property
    def candidates(self) -> Any:
        """One tensor on the device if the pool fits there, else the pool itself."""
        return self.pool if self._resident is None else self._resident

    @cached_property
    def _resident(self) -> Float[Tensor, "N D"] | None:
        """The vectors on the device; None if they do not fit there."""
        pool = self.pool
        room = _RESIDENT * torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else _SMALL
        if pool.num_candidates * pool.feature_dim * pool.dtype.itemsize > room:
            return None
        table, start = torch.empty(pool.num_candidates, pool.feature_dim, dtype=pool.dtype, device=self.device), 0
        for block in pool.blocks():
            table[start : start + len(block)].copy_(block)
            start += len(block)
        return table

    @cached_property
    def inverse_norms(self) -> Float[Tensor, " N"] | None:
        """1 / length of each vector; None if all vectors have length 1."""
        return None if self.pool.normalized else inverse_norms(self.candidates).to(self.device)
