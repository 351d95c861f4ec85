"""Recency: ranks candidates by how often they are among the last ones that users of training queries met."""

from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rankers.base import Reporting, Untrained
from rankers.pool_ranker import PoolRanker
from rankers.references.popularity import meetings
from ranking.pools.pool_batch import PoolBatch
from registry import RANKERS
from registry.ranges import Positive


@RANKERS.register("recency")
class Recency(Untrained[PoolBatch], PoolRanker):
    """Ranks candidates in the same order for every query: popularity in which what was met lately counts more.

    score(c) = log(1 + sum over training queries of 2 ** (-d / half_life)), where d is the number of candidates that the
    query's user met after c: 0 for the right candidate, 1 for the last one of the history.

    Args:
        half_life: The number of candidates after which a meeting counts half.

    Note:
        A pool has the order of each history and no times, so that lately means at the end of a user's history.
    """

    normalize: bool = False

    _weighed: tuple[Tensor, Tensor] | None = None
    """The training queries, and the scores that follow from them."""

    def __init__(self, half_life: Positive = 10.0, **reporting: Unpack[Reporting]) -> None:
        super().__init__(**reporting)
        self.half_life = half_life

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B 1 1"]:
        """A one for every query."""
        return torch.ones(len(batch.group), 1, 1, device=batch.group.device)

    def candidates_to_rank(self) -> Float[Tensor, "N 1"]:
        """The score of each candidate."""
        queries = self.data.queries("train")
        if self._weighed is None or self._weighed[0] is not queries:
            self._weighed = queries, self._weigh(queries)
        return self._weighed[1].unsqueeze(1)

    def _weigh(self, queries: Int[Tensor, " Q"]) -> Float[Tensor, " N"]:
        pool = self.data.pool
        rows, later = meetings(pool, queries)
        weights = torch.exp2(-later.double() / self.half_life)
        return torch.bincount(rows, weights, minlength=pool.num_candidates).log1p().float()
