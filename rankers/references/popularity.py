"""Popularity: ranks candidates by how many training queries have them as right candidate or in the history."""

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from rankers.pool_ranker import PoolRanker
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_evaluation import ragged
from ranking.stores.candidate_pool import CandidatePool
from registry import RANKERS


@RANKERS.register("popularity")
class Popularity(Untrained[PoolBatch], PoolRanker):
    """Ranks candidates in the same order for every query, the most popular first.

    A candidate's score is the number of training queries for which it is right or whose history contains it.
    """

    normalize: bool = False

    _counted: tuple[CandidatePool, Tensor] | None = None

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B 1 1"]:
        """A one for every query."""
        return torch.ones(len(batch.group), 1, 1, device=batch.group.device)

    def candidates_to_rank(self) -> Float[Tensor, "N 1"]:
        """The number of each candidate."""
        if self._counted is None or self._counted[0] is not self.data.pool:
            self._counted = self.data.pool, self._count()
        return self._counted[1].unsqueeze(1)

    def _count(self) -> Float[Tensor, " N"]:
        pool, train = self.data.pool, self.data.queries("train")
        known = pool.queries
        pairs = []
        for offsets, rows in ((known.relevant_offsets, known.relevant), (known.history_offsets, known.history)):
            of, values, _ = ragged(offsets, rows, train)
            pairs.append(torch.stack([of, values.long()], dim=1))
        once = torch.cat(pairs).unique(dim=0)
        return torch.bincount(once[:, 1], minlength=pool.num_candidates).float()
