"""JoinedPool: the candidates of several pools as one, for the queries of the first, without a copy."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from jaxtyping import Int
from torch import Tensor

from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.shard import Table
from registry import ConfigError

DECIDES_VECTORS = ("sha256", "pooling", "normalize", "max_length", "candidate_prompt")
"""The fields of an encoder that candidates' vectors depend on."""


class JoinedPool(CandidatePool):
    """The queries of one pool with its candidates and those of other pools, for tests with irrelevant candidates.

    The rows of the first pool stay; those of each other pool follow. Its ids get the name of its folder in front, as in
    `esci/B000123`, so that all are different. Files stay where they are, memory-mapped.

    Args:
        pools: At least two pools of one encoder, in folders of different names.

    Raises:
        ConfigError: If their vectors are not of one encoder, or two folders have the same name.
    """

    def __init__(self, pools: Sequence[CandidatePool]) -> None:
        first, *others = pools
        for other in others:
            _check_alike(first, other)
        names = [pool.path.name for pool in pools]
        if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
            problem = f"two pools are in folders called {twice}, so that their ids could be the same."
            raise ConfigError("datamodule.mixed_with", problem, cure="name each pool once, or rename a folder")
        shards = {name: list(each) for name, each in first.manifest["shards"].items()}
        shards["candidates"] = [shard for pool in pools for shard in pool.manifest["shards"]["candidates"]]
        manifest = {**first.manifest, "shards": shards, "normalized": all(pool.normalized for pool in pools)}
        joined = Table([shard for pool in pools for shard in pool._candidates.shards])
        super().__init__(first.path, manifest, {**first._tables, "candidates": joined})
        self.pools = list(pools)
        self._starts = [0, *accumulate(pool.num_candidates for pool in pools)]

    def id(self, row: int) -> str:
        """The id of a candidate; behind the name of its pool, unless that is the first."""
        place = bisect_right(self._starts, row) - 1
        id = super().id(row)
        return f"{self.pools[place].path.name}/{id}" if place else id

    def rows_of(self, ids: Sequence[str]) -> Int[Tensor, " n"]:
        """The row of each id, -1 where no pool has it."""
        rows = self.pools[0].rows_of(ids)
        for pool, start in zip(self.pools[1:], self._starts[1:], strict=False):
            prefix = f"{pool.path.name}/"
            for place in (rows < 0).nonzero().flatten().tolist():
                id = ids[int(place)]
                if id.startswith(prefix):
                    found = int(pool.rows_of([id.removeprefix(prefix)]))
                    rows[place] = found + start if found >= 0 else -1
        return rows

    def __reduce__(self) -> tuple[Any, ...]:
        # As for one pool: each is opened again.
        return type(self), (self.pools,)


def _check_alike(first: CandidatePool, other: CandidatePool) -> None:
    ours, theirs = ({**(pool.encoder or {}), "size": pool.feature_dim, "dtype": pool.dtype} for pool in (first, other))
    for field in (*DECIDES_VECTORS, "size", "dtype"):
        if (wanted := ours.get(field)) != (found := theirs.get(field)):
            problem = f"the vectors of {other.path} are others than those of {first.path}: {field} is {found!r}"
            cure = "build both pools with the same features.encoder"
            raise ConfigError("datamodule.mixed_with", f"{problem}, not {wanted!r}.", cure=cure)
