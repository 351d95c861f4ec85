"""Popularity: ranks candidates by how many training queries have them as right candidate or in the history."""

import torch
from jaxtyping import Float, Int
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

    score(c) = log(1 + the number of training queries for which c is right or whose history contains it).
    """

    normalize: bool = False

    _counted: tuple[Tensor, Tensor] | None = None
    """The training queries, and the scores that follow from them."""

    def query_vectors(self, batch: PoolBatch) -> Float[Tensor, "B 1 1"]:
        """A one for every query."""
        return torch.ones(len(batch.group), 1, 1, device=batch.group.device)

    def candidates_to_rank(self) -> Float[Tensor, "N 1"]:
        """The score of each candidate."""
        pool, queries = self.data.pool, self.data.queries("train")
        if self._counted is None or self._counted[0] is not queries:
            rows, _ = meetings(pool, queries)
            self._counted = queries, torch.bincount(rows, minlength=pool.num_candidates).double().log1p().float()
        return self._counted[1].unsqueeze(1)


def meetings(pool: CandidatePool, queries: Int[Tensor, " Q"]) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Which candidates the users of queries met, each once a query, as right candidate or in the history.

    Args:
        pool: The pool of the queries.
        queries: The queries' numbers.

    Returns:
        The candidates' rows, and how many candidates the user met later.
    """
    known = pool.queries
    of_right, right, _ = ragged(known.relevant_offsets, known.relevant, queries)
    of_seen, seen, place = ragged(known.history_offsets, known.history, queries)
    later = torch.cat([torch.zeros_like(of_right), known.history_offsets.diff()[queries][of_seen] - place])
    pairs = torch.stack([torch.cat([of_right, of_seen]), torch.cat([right, seen]).long()], dim=1)
    once, at = pairs.unique(dim=0, return_inverse=True)
    first = torch.full((len(once),), pool.num_candidates).scatter_reduce_(0, at, later, "amin", include_self=False)
    return once[:, 1], first
