"""PoolEvaluation: where the judged candidates of each query stand in the order of a whole pool."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torchmetrics import Metric

from ranking.evaluation import Metrics, Ranked, Standing, gathered, joined, ranks_of
from ranking.places import Places
from ranking.vectors.products import Scorer, full_precision
from ranking.vectors.search import places, top_k

DIRECT = "depth 0"
"""The name of a ranker without its test-time scaling: in reports a part of it rather than a reference."""
UNMIXED = "unmixed"
"""The name of a ranker without the frozen encoder's share of its scores: likewise a part of it."""

_BUDGET = 2**24  # scores of own candidate lists that are held at once


@dataclass(frozen=True)
class Qrels:
    """The judged candidates of Q queries, P at the most, and those that the pool lacks, M at the most.

    Args:
        queries: Which queries of the pool.
        rows: Of the judged candidates; 0 where the mask is False.
        labels: Their grades, above 0; 0 where the mask is False.
        mask: True where there is one.
        missing: The grades of judged candidates that are not in the pool; 0 where there is none.
        min_label: From which grade on a candidate is relevant where a metric knows no grades.
    """

    queries: Int[Tensor, " Q"]
    rows: Int[Tensor, "Q P"]
    labels: Float[Tensor, "Q P"]
    mask: Bool[Tensor, "Q P"]
    missing: Float[Tensor, "Q M"]
    min_label: float = 0.0

    @classmethod
    def of(cls, pool: Any, queries: Int[Tensor, " Q"]) -> "Qrels":
        """What the pool knows of these queries."""
        known = pool.queries
        of, rows, place = ragged(known.relevant_offsets, known.relevant, queries)
        labels = ragged(known.relevant_offsets, known.label, queries)[1]
        mask = _padded(torch.ones(len(of), dtype=torch.bool), of, place, len(queries))
        of_missing, missing, at = ragged(known.missing_offsets, known.missing, queries)
        return cls(
            queries,
            _padded(rows.long(), of, place, len(queries)),
            _padded(labels.float(), of, place, len(queries)),
            mask,
            _padded(missing.float(), of_missing, at, len(queries)),
            float(pool.min_label),
        )

    def places(
        self,
        vectors: Float[Tensor, "Q V E"],
        pool: Any,
        *,
        own: Int[Tensor, "Q L"] | None = None,
        removed: Int[Tensor, "R 2"] | None = None,
        inverse_norms: Float[Tensor, " N"] | None = None,
        distributed: bool = False,
    ) -> Places:
        """Where each judged candidate stands for each of V vectors a query, `[V, Q, P]`, from one scan of the pool.

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
        found = Places.nowhere(num_variants, *self.mask.shape)
        if own is not None:
            values = _own_places(vectors, pool, own, inverse_norms, place, self.rows[place, at])
        else:
            variant = torch.arange(num_variants)
            pairs = (place.unsqueeze(1) * num_variants + variant).flatten()
            rows = self.rows[place, at].repeat_interleave(num_variants)
            if removed is not None:
                flat = (removed[:, :1] * num_variants + variant).flatten()
                removed = torch.stack([flat, removed[:, 1].repeat_interleave(num_variants)], dim=1)
            given = {"inverse_norms": inverse_norms, "removed": removed, "distributed": distributed}
            searched = places(vectors.flatten(0, 1), pool, pairs, rows, **given)
            values = Places(*(each.cpu().view(len(place), num_variants).T for each in searched))
        for target, value in zip(found, values, strict=True):
            target[:, place, at] = value
        return found

    def value(self, metric: Callable[..., Tensor], places: Places, *, within: bool = False) -> Float[Tensor, " Q"]:
        """A metric of each query, the judged candidates standing at these places, `[Q, P]`.

        Args:
            metric: Of `ranking.metrics`.
            places: Of the judged candidates in the pool.
            within: Whether judged candidates that the pool lacks do not count, rather than as never found.
        """
        above, tied, labels = places.above, places.tied, self.labels
        if not within:
            nowhere = Places.nowhere(*self.missing.shape)
            above, tied = torch.cat([above, nowhere.above], dim=1), torch.cat([tied, nowhere.tied], dim=1)
            labels = torch.cat([labels, self.missing], dim=1)
        return metric(above, tied, labels, (labels > 0) & (labels >= self.min_label)).double()


class PoolEvaluation:
    """Where the judged candidates stand in the order of a pool, and the ranker's best candidates.

    Args:
        name: Of the scorer that is judged, one of those in `places`.
        qrels: What is known of the queries.
        places: By scorer, `[Q, P]`.
        top_scores: The judged scorer's highest scores, best first.
        top_rows: The candidates they belong to, -1 where there are fewer.
    """

    def __init__(
        self,
        name: str,
        qrels: Qrels,
        places: Mapping[str, Places],
        top_scores: Float[Tensor, "Q k"],
        top_rows: Int[Tensor, "Q k"],
    ) -> None:
        self.name, self.qrels, self.places = name, qrels, places
        self.top_scores, self.top_rows = top_scores, top_rows

    @property
    def queries(self) -> Int[Tensor, " Q"]:
        """The queries' numbers in the pool: the order of all per-query values."""
        return self.qrels.queries

    @property
    def num_missing(self) -> int:
        """How many judged candidates the pool lacks."""
        return int((self.qrels.missing > 0).sum())

    def per_query(self, metrics: Metrics) -> dict[str, Float[Tensor, " Q"]]:
        """Each metric of the judged scorer for each query."""
        return self._values(metrics, self.places[self.name])

    def baselines(self, metrics: Metrics) -> dict[str, dict[str, Float[Tensor, " Q"]]]:
        """The same of all other scorers."""
        return {name: self._values(metrics, each) for name, each in self.places.items() if name != self.name}

    def left_out(self) -> dict[str, Bool[Tensor, " Q"]]:
        """Nothing, because every scorer ranks the pool for every query."""
        return {}

    def within_pool(self, metrics: Metrics) -> dict[str, Float[Tensor, " Q"]]:
        """Each metric of the judged scorer, as if nobody had judged the candidates that the pool lacks."""
        return self._values(metrics, self.places[self.name], within=True)

    def rankings(self) -> Iterator[tuple[int, Ranked]]:
        """Each query and its best candidates in order."""
        for place, query in enumerate(self.queries.tolist()):
            rows, scores = self.top_rows[place].tolist(), self.top_scores[place].tolist()
            found = zip(rows, scores, self._top_labels(place).tolist(), strict=True)
            yield query, [candidate for candidate in found if candidate[0] >= 0]

    def standings(self, query: int, reference: str | None, top_k: int) -> list[Standing]:
        """A query's first candidates and all judged ones below them, in the ranker's order.

        Of a reference only the ranks of judged candidates are known.
        """
        place = int((self.queries == query).nonzero()[0])
        judged = self.qrels.rows[place].masked_fill(~self.qrels.mask[place], -1).tolist()
        ours, theirs = (
            dict(zip(judged, ranks_of(Places(*(each[place] for each in found))), strict=True)) if found else {}
            for found in (self.places[self.name], self.places.get(reference or ""))
        )
        best = zip(self.top_rows[place].tolist(), self.top_scores[place].tolist(), strict=True)
        labels = [*self._top_labels(place).tolist(), *self.qrels.labels[place].tolist()]
        first = [(row, rank, score) for rank, (row, score) in enumerate(best, start=1) if row >= 0]
        found = {row for row, *_ in first}
        below = [(row, ranks[0], None) for row, ranks in ours.items() if row >= 0 and row not in found and ranks]
        label = dict(zip([*self.top_rows[place].tolist(), *judged], labels, strict=True))
        return [
            Standing(row, rank, score, label[row], theirs.get(row))
            for row, rank, score in [*first, *sorted(below, key=lambda each: each[1])]
            if rank <= top_k or row in ours
        ]

    def right_and_wrong(self) -> tuple[Float[Tensor, " R"], Float[Tensor, " W"]]:
        """The scores of relevant and of other candidates among the best."""
        right = torch.stack([self._right(place) for place in range(len(self.queries))])
        there = self.top_rows >= 0
        return self.top_scores[there & right], self.top_scores[there & ~right]

    def _right(self, place: int) -> Bool[Tensor, " k"]:
        labels = self._top_labels(place)
        return (labels > 0) & (labels >= self.qrels.min_label)

    def _top_labels(self, place: int) -> Float[Tensor, " k"]:
        """The labels of a query's best candidates, 0 for those that nobody judged."""
        there = self.qrels.mask[place]
        rows, order = self.qrels.rows[place, there].sort()
        if not len(rows):
            return torch.zeros(self.top_rows.shape[1])
        at = torch.searchsorted(rows, self.top_rows[place]).clamp(max=len(rows) - 1)
        labels = self.qrels.labels[place, there][order[at]]
        return torch.where(rows[at] == self.top_rows[place], labels, 0)

    def _values(self, metrics: Metrics, places: Places, *, within: bool = False) -> dict[str, Float[Tensor, " Q"]]:
        return {name: self.qrels.value(metric, places, within=within) for name, metric in metrics.items()}


class QueryVectors:
    """Q queries, ascending, and V vectors of each.

    A plain class: of tuples, torchmetrics would make numbers of tensors with one element.
    """

    def __init__(self, queries: Int[Tensor, " Q"], vectors: Float[Tensor, "Q V E"]) -> None:
        self.queries, self.vectors = queries, vectors


class PoolEvaluationState(Metric):
    """Collects the vectors of queries over all processes."""

    full_state_update = False
    group: list[Tensor]
    vectors: list[Tensor]

    def __init__(self) -> None:
        super().__init__(compute_on_cpu=True, dist_sync_fn=gathered)
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

    def compute(self) -> QueryVectors:
        """Everything collected, each query once, ascending."""
        group, vectors = joined(self.group), joined(self.vectors)
        queries, first = _first_of_each(group)
        return QueryVectors(queries, vectors[first])


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
        with torch.no_grad(), full_precision(vectors.device):
            for query, listed in zip(some, features.cpu().float().view(*at.shape, -1), strict=True):
                # As in a scan of the pool: a product of all at once would round equal candidates differently.
                scorer = Scorer(query, torch.float32, len(listed))
                parts.append(scorer.score(slice(None), scorer.load(listed))[:, : len(listed)])
    scores = torch.stack(parts) if parts else vectors.new_zeros(*vectors.shape[:2], own.shape[1])
    if inverse_norms is not None:
        scores *= inverse_norms.cpu()[rows].unsqueeze(1)
    return scores.masked_fill((own < 0).unsqueeze(1), -torch.inf)


def _own_places(
    vectors: Float[Tensor, "Q V E"],
    pool: Any,
    own: Int[Tensor, "Q L"],
    inverse_norms: Float[Tensor, " N"] | None,
    place: Int[Tensor, " R"],
    rows: Int[Tensor, " R"],
) -> Places:
    """Places within each query's own list, `[V, R]`; a judged candidate that is not in it is nowhere."""
    scores = _own_scores(vectors, pool, own, inverse_norms)[place]
    is_it = (own[place] == rows.unsqueeze(1)).unsqueeze(1)
    score = scores.masked_fill(~is_it, -torch.inf).amax(dim=2, keepdim=True)
    there = (own[place] >= 0).unsqueeze(1)
    above = ((scores > score) & there).sum(dim=2).double()
    tied = ((scores == score) & there & ~is_it).sum(dim=2).double()
    return Places(above.masked_fill(~is_it.any(dim=2), torch.inf).T, tied.T)


def _padded(values: Tensor, of: Int[Tensor, " R"], place: Int[Tensor, " R"], num_queries: int) -> Shaped[Tensor, "Q P"]:
    """Ragged values as a matrix, filled up with 0."""
    padded = values.new_zeros(num_queries, int(place.max()) + 1 if len(place) else 1)
    padded[of, place] = values
    return padded


def _first_of_each(group: Int[Tensor, " R"]) -> tuple[Int[Tensor, " Q"], Int[Tensor, " Q"]]:
    """The different numbers, ascending, and where each comes first."""
    queries, place = group.unique(return_inverse=True)
    first = torch.full((len(queries),), len(group)).scatter_reduce_(0, place, torch.arange(len(group)), "amin")
    return queries, first
