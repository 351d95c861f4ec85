"""Mining: finds the wrong candidates of each query that a ranker ranks highest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from console.progress import WorkProgress
from datamodules.pools.judgements import Judgements
from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.search import as_pool, inverse_norms, top_k

_QUERIES_A_SCAN = 1 << 13


@dataclass(frozen=True)
class Scoring:
    """Scores by inner products of vectors.

    Args:
        vectors: Returns the vectors of queries with these numbers, on the device that computes the scores.
        candidates: The vectors of the candidates: a pool or a tensor.
        inverse_norms: 1 / length of each candidate vector, to score by vectors of length 1; None for vectors as they
            are.
    """

    vectors: Callable[[Int[Tensor, " Q"]], Float[Tensor, "Q E"]]
    candidates: Any
    inverse_norms: Float[Tensor, " N"] | None

    @classmethod
    def of_encoder(cls, pool: CandidatePool, device: torch.device | str) -> "Scoring":
        """The cosine of the frozen encoder's vectors."""

        def vectors(queries: Int[Tensor, " Q"]) -> Float[Tensor, "Q D"]:
            return torch.nn.functional.normalize(pool.queries.features(queries).float(), dim=1).to(device)

        return cls(vectors, pool, None if pool.normalized else inverse_norms(pool))


@dataclass(frozen=True)
class MinedLists:
    """The candidates that a ranker ranks highest for each of Q queries, and the scores of their right candidates.

    Args:
        queries: The numbers of the queries, ascending.
        rows: The rows of the candidates, best first, padded with -1.
        scores: The scores of these candidates.
        pairs: A number for each query and right candidate, ascending.
        right: The score of each pair.
        num_candidates: Number of candidates in the pool.
    """

    queries: Int[Tensor, " Q"]
    rows: Int[Tensor, "Q k"]
    scores: Float[Tensor, "Q k"]
    pairs: Int[Tensor, " R"]
    right: Float[Tensor, " R"]
    num_candidates: int

    @classmethod
    def mine(
        cls,
        scoring: Scoring,
        queries: Int[Tensor, " Q"],
        depth: int,
        judgements: Judgements,
        *,
        distributed: bool = False,
    ) -> "MinedLists":
        """Search the pool for all queries.

        Args:
            scoring: The scores to rank by.
            queries: The numbers of the queries, ascending.
            depth: The length of a list.
            judgements: The candidates that must not be negatives; they are left out.
            distributed: Whether to divide the work among processes.
        """
        pool, norms = as_pool(scoring.candidates), scoring.inverse_norms
        rows, scores, pairs, right = [], [], [], []
        with WorkProgress(
            len(queries), doing="Negatives", done="Searched negatives for", unit="queries", brief=True
        ) as shown:
            for part in queries.split(_QUERIES_A_SCAN):
                vectors = scoring.vectors(part)
                removed = torch.stack(judgements.not_wrong(part), dim=1)
                found = top_k(vectors, pool, depth, inverse_norms=norms, removed=removed, distributed=distributed)
                scores.append(found[0].cpu())
                rows.append(found[1].cpu().int())
                of, candidates, _ = judgements.relevant(part)
                product = (vectors.cpu()[of] * pool.features(candidates).cpu().float()).sum(dim=1)
                right.append(product if norms is None else product * norms.cpu()[candidates])
                pairs.append(part[of] * pool.num_candidates + candidates)
                shown.report(len(part))
        of_pairs, order = torch.cat(pairs).sort()
        return cls(queries, torch.cat(rows), torch.cat(scores), of_pairs, torch.cat(right)[order], pool.num_candidates)

    def of(self, queries: Int[Tensor, " B"]) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"]]:
        """The rows and scores of these queries."""
        at = torch.searchsorted(self.queries, queries)
        return self.rows[at].long(), self.scores[at]

    def score(self, queries: Int[Tensor, " B"], rows: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The score of each query with one of its right candidates."""
        return self.right[torch.searchsorted(self.pairs, queries * self.num_candidates + rows)]
