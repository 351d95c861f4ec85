"""Mining: finds the wrong candidates of each query that the frozen encoder ranks highest."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from console.progress import WorkProgress
from datamodules.pools.judgements import Judgements
from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.search import inverse_norms, top_k

_QUERIES_A_SCAN = 1 << 13


@dataclass(frozen=True)
class MinedLists:
    """The candidates that the encoder ranks highest for each of Q queries, by cosine.

    Args:
        pool: The pool of queries and candidates.
        queries: The numbers of the queries, ascending.
        rows: The rows of the candidates, best first, padded with -1.
        scores: The cosines of these candidates.
    """

    pool: CandidatePool
    queries: Int[Tensor, " Q"]
    rows: Int[Tensor, "Q k"]
    scores: Float[Tensor, "Q k"]

    @classmethod
    def mine(
        cls,
        pool: CandidatePool,
        queries: Int[Tensor, " Q"],
        depth: int,
        judgements: Judgements,
        *,
        device: torch.device | str = "cpu",
        distributed: bool = False,
    ) -> "MinedLists":
        """Search the pool for all queries.

        Args:
            pool: The pool of queries and candidates.
            queries: The numbers of the queries, ascending.
            depth: The length of a list.
            judgements: The candidates that must not be negatives; they are left out.
            device: The device that computes the scores.
            distributed: Whether to divide the work among processes.
        """
        norms = None if pool.normalized else inverse_norms(pool)
        rows, scores = [], []
        with WorkProgress(
            len(queries), doing="Negatives", done="Searched negatives for", unit="queries", brief=True
        ) as shown:
            for part in queries.split(_QUERIES_A_SCAN):
                vectors = _unit(pool.queries.features(part)).to(device)
                removed = torch.stack(judgements.not_wrong(part), dim=1)
                found = top_k(vectors, pool, depth, inverse_norms=norms, removed=removed, distributed=distributed)
                scores.append(found[0].cpu())
                rows.append(found[1].cpu().int())
                shown.report(len(part))
        return cls(pool, queries, torch.cat(rows), torch.cat(scores))

    def of(self, queries: Int[Tensor, " B"]) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"]]:
        """The rows and scores of these queries."""
        at = torch.searchsorted(self.queries, queries)
        return self.rows[at].long(), self.scores[at]

    def score(self, queries: Int[Tensor, " B"], rows: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The cosine of each query with one candidate."""
        return (_unit(self.pool.queries.features(queries)) * _unit(self.pool.features(rows))).sum(dim=1)


def _unit(vectors: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    return torch.nn.functional.normalize(vectors.float(), dim=1)
