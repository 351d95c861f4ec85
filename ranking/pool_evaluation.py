"""PoolEvaluation: where the relevant candidates of each query stand in the order of a whole pool."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from ranking.evaluation import Metrics, Ranked, joined
from ranking.search import ranks, top_k

_BUDGET = 2**24  # scores of own candidate lists that are held at once


@dataclass(frozen=True)
class Relevant:
    """The relevant candidates of Q queries, P at the most.

    Args:
        queries: Which queries of the pool.
        rows: Of the relevant candidates; 0 where the mask is False.
        labels: Relevance.
        mask: True where there is one.
    """

    queries: Int[Tensor, " Q"]
    rows: Int[Tensor, "Q P"]
    labels: Float[Tensor, "Q P"]
    mask: Bool[Tensor, "Q P"]

    @classmethod
    def of(cls, pool: Any, queries: Int[Tensor, " Q"]) -> "Relevant":
        """What the pool knows of these queries."""
        of, rows, place = ragged(pool.queries.relevant_offsets, pool.queries.relevant, queries)
        _, labels, _ = ragged(pool.queries.relevant_offsets, pool.queries.label, queries)
        width = int(place.max()) + 1 if len(place) else 1
        mask = torch.zeros(len(queries), width, dtype=torch.bool)
        mask[of, place] = True
        padded = torch.zeros(mask.shape, dtype=torch.int64), torch.zeros(mask.shape)
        for target, values in zip(padded, (rows, labels.float()), strict=True):
            target[of, place] = values.to(target.dtype)
        return cls(queries, *padded, mask)

    def ranks(
        self,
        vectors: Float[Tensor, "Q V E"],
        pool: Any,
        *,
        own: Int[Tensor, "Q L"] | None = None,
        removed: Int[Tensor, "R 2"] | None = None,
        inverse_norms: Float[Tensor, " N"] | None = None,
        distributed: bool = False,
    ) -> Float[Tensor, "V Q P"]:
        """The rank of each relevant candidate for each of V vectors a query, from one scan of the pool.

        Args:
            vectors: Of the queries.
            pool: Candidates to rank, by inner product: a CandidatePool or a tensor.
            own: Each query's own candidates, -1 beyond their end, where it ranks only these.
            removed: Pairs (place of the query, row) that are no candidates.
            inverse_norms: One over each candidate's length, where it is to count as of length one.
            distributed: Whether processes share the scan.
        """
        num_variants = vectors.shape[1]
        place, at = self.mask.nonzero(as_tuple=True)
        found = torch.zeros(num_variants, *self.mask.shape, dtype=torch.float64)
        if own is not None:
            found[:, place, at] = _own_ranks(vectors, pool, own, inverse_norms, place, self.rows[place, at])
            return found
        variant = torch.arange(num_variants)
        pairs = (place.unsqueeze(1) * num_variants + variant).flatten()
        rows = self.rows[place, at].repeat_interleave(num_variants)
        if removed is not None:
            flat = (removed[:, :1] * num_variants + variant).flatten()
            removed = torch.stack([flat, removed[:, 1].repeat_interleave(num_variants)], dim=1)
        given = {"inverse_norms": inverse_norms, "removed": removed, "distributed": distributed}
        values = ranks(vectors.flatten(0, 1), pool, pairs, rows, **given)
        found[:, place, at] = values.cpu().view(len(place), num_variants).T
        return found


class PoolEvaluation:
    """Ranks of the relevant candidates over a pool, and the ranker's best candidates.

    Args:
        name: Of the scorer that is judged, one of those in `ranks`.
        relevant: Of the queries.
        ranks: By scorer.
        top_scores: The judged scorer's highest scores, best first.
        top_rows: The candidates they belong to, -1 where there are fewer.
    """

    def __init__(
        self,
        name: str,
        relevant: Relevant,
        ranks: Mapping[str, Float[Tensor, "Q P"]],
        top_scores: Float[Tensor, "Q k"],
        top_rows: Int[Tensor, "Q k"],
    ) -> None:
        self.name, self.relevant, self.ranks = name, relevant, ranks
        self.top_scores, self.top_rows = top_scores, top_rows

    @property
    def queries(self) -> Int[Tensor, " Q"]:
        """The queries' numbers in the pool: the order of all per-query values."""
        return self.relevant.queries

    def per_query(self, metrics: Metrics) -> dict[str, Float[Tensor, " Q"]]:
        """Each metric of the judged scorer for each query."""
        return self._values(metrics, self.ranks[self.name])

    def baselines(self, metrics: Metrics) -> dict[str, dict[str, Float[Tensor, " Q"]]]:
        """The same of all other scorers."""
        return {name: self._values(metrics, found) for name, found in self.ranks.items() if name != self.name}

    def rankings(self) -> Iterator[tuple[int, Ranked]]:
        """Each query and its best candidates in order."""
        labels = self._top_labels()
        for place, query in enumerate(self.queries.tolist()):
            rows, scores = self.top_rows[place].tolist(), self.top_scores[place].tolist()
            found = zip(rows, scores, labels[place].tolist(), strict=True)
            yield query, [candidate for candidate in found if candidate[0] >= 0]

    def right_and_wrong(self) -> tuple[Float[Tensor, " R"], Float[Tensor, " W"]]:
        """The scores of relevant and of other candidates among the best."""
        labels, there = self._top_labels(), self.top_rows >= 0
        return self.top_scores[there & (labels > 0)], self.top_scores[there & (labels <= 0)]

    def _top_labels(self) -> Float[Tensor, "Q k"]:
        """The labels of the best candidates, 0 for those that are not known to be relevant."""
        same = (self.top_rows.unsqueeze(2) == self.relevant.rows.unsqueeze(1)) & self.relevant.mask.unsqueeze(1)
        return (same * self.relevant.labels.unsqueeze(1)).sum(dim=2)

    def _values(self, metrics: Metrics, found: Float[Tensor, "Q P"]) -> dict[str, Float[Tensor, " Q"]]:
        relevant = self.relevant
        return {name: metric(found, relevant.labels, relevant.mask).double() for name, metric in metrics.items()}


class PoolEvaluationState(Metric):
    """Collects the vectors of queries over all processes."""

    full_state_update = False
    group: list[Tensor]
    vectors: list[Tensor]

    def __init__(self) -> None:
        super().__init__(compute_on_cpu=True)
        self.add_state("group", default=[], dist_reduce_fx="cat")
        self.add_state("vectors", default=[], dist_reduce_fx="cat")

    def update(self, group: Int[Tensor, " B"], vectors: Float[Tensor, "B V E"]) -> None:
        """Add the vectors of a batch of queries.

        Raises:
            ValueError: If one is no number.
        """
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError(f"the ranker embedded queries {group.tolist()} as nan")
        self.group.append(group)
        self.vectors.append(vectors.float())

    def compute(self) -> tuple[Int[Tensor, " Q"], Float[Tensor, "Q V E"]]:
        """Everything collected, each query once, ascending."""
        group, vectors = joined(self.group), joined(self.vectors)
        queries, first = _first_of_each(group)
        return queries, vectors[first]


def best(
    vectors: Float[Tensor, "Q E"],
    pool: Any,
    k: int,
    *,
    own: Int[Tensor, "Q L"] | None = None,
    removed: Int[Tensor, "R 2"] | None = None,
    inverse_norms: Float[Tensor, " N"] | None = None,
    distributed: bool = False,
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """Each query's highest scores and their rows, best first; -1 where its own list is shorter than k."""
    if own is None:
        given = {"inverse_norms": inverse_norms, "removed": removed, "distributed": distributed}
        scores, rows = top_k(vectors, pool, k, **given)
        return scores.cpu(), rows.cpu()
    scores = _own_scores(vectors.unsqueeze(1), pool, own, inverse_norms)[:, 0]
    scores, place = scores.sort(dim=1, descending=True, stable=True)
    rows = own.gather(1, place)
    return scores[:, :k], rows[:, :k]


def ragged(
    offsets: Int[Tensor, " G1"], values: Tensor, index: Int[Tensor, " Q"]
) -> tuple[Int[Tensor, " R"], Tensor, Int[Tensor, " R"]]:
    """The values of some rows of a ragged tensor: place in `index`, value, and place within its row."""
    start, count = offsets[index], offsets[index + 1] - offsets[index]
    of = torch.arange(len(index)).repeat_interleave(count)
    within = torch.arange(len(of)) - (count.cumsum(0) - count)[of]
    return of, values[start[of] + within], within


def _own_scores(
    vectors: Float[Tensor, "Q V E"],
    pool: Any,
    own: Int[Tensor, "Q L"],
    inverse_norms: Float[Tensor, " N"] | None,
) -> Float[Tensor, "Q V L"]:
    vectors, rows = vectors.cpu(), own.clamp(min=0)
    size = max(1, _BUDGET // max(1, own.shape[1] * vectors.shape[2]))
    parts = []
    for some, at in zip(vectors.split(size), rows.split(size), strict=True):
        features = pool[at.flatten()] if isinstance(pool, Tensor) else pool.features(at.flatten())
        parts.append(torch.einsum("qve,qle->qvl", some, features.cpu().float().view(*at.shape, -1)))
    scores = torch.cat(parts)
    if inverse_norms is not None:
        scores *= inverse_norms.cpu()[rows].unsqueeze(1)
    return scores.masked_fill((own < 0).unsqueeze(1), -torch.inf)


def _own_ranks(
    vectors: Float[Tensor, "Q V E"],
    pool: Any,
    own: Int[Tensor, "Q L"],
    inverse_norms: Float[Tensor, " N"] | None,
    place: Int[Tensor, " R"],
    rows: Int[Tensor, " R"],
) -> Float[Tensor, "V R"]:
    """Ranks within each query's own list; a relevant candidate that is not in it comes after all that are."""
    scores = _own_scores(vectors, pool, own, inverse_norms)[place]
    is_it = (own[place] == rows.unsqueeze(1)).unsqueeze(1)
    score = scores.masked_fill(~is_it, -torch.inf).amax(dim=2, keepdim=True)
    there = (own[place] >= 0).unsqueeze(1)
    higher = ((scores > score) & there).sum(dim=2)
    tied = ((scores == score) & there & ~is_it).sum(dim=2)
    return (1 + higher + tied / 2).double().T


def _first_of_each(group: Int[Tensor, " R"]) -> tuple[Int[Tensor, " Q"], Int[Tensor, " Q"]]:
    """The different numbers, ascending, and where each comes first."""
    queries, place = group.unique(return_inverse=True)
    first = torch.full((len(queries),), len(group)).scatter_reduce_(0, place, torch.arange(len(group)), "amin")
    return queries, first
