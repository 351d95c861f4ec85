"""Evaluation: the scores that a ranker gave to every candidate of a split, and those of the references beside it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from ranking.batch import Batch
from ranking.places import Places

Metrics = Mapping[str, Callable[..., Tensor]]
"""Functions of (above, tied, labels, relevant) by name, as those of `ranking.metrics`."""

Ranked = list[tuple[int, float, float]]
"""Candidates of a query, best first: slot or row, score, label."""


class Standing(NamedTuple):
    """Where a candidate of a query stands.

    Args:
        candidate: Its slot or row.
        rank: Its rank in the ranker's order.
        score: The ranker's score; None if only its rank is known.
        label: Its label.
        ranks: The first and the last of the ranks that a reference's ties leave open; None where it gives none.
    """

    candidate: int
    rank: int
    score: float | None
    label: float
    ranks: tuple[int, int] | None


@runtime_checkable
class Judged(Protocol):
    """What a report is made of, whether groups or a whole pool were ranked."""

    @property
    def queries(self) -> Int[Tensor, " Q"]:
        """Each query once, ascending: the order of all per-query values."""
        ...

    def per_query(self, metrics: Metrics) -> dict[str, Float[Tensor, " Q"]]:
        """Each metric of the ranker for each query."""
        ...

    def baselines(self, metrics: Metrics) -> dict[str, dict[str, Float[Tensor, " Q"]]]:
        """The same of other scorers, by name; nan for queries that a scorer leaves out."""
        ...

    def left_out(self) -> dict[str, Bool[Tensor, " Q"]]:
        """The queries for which another scorer has no list, by the name of the scorer; scorers with all are absent."""
        ...

    def rankings(self) -> Iterator[tuple[int, Ranked]]:
        """Each query, once a draw, and its candidates in order."""
        ...

    def standings(self, query: int, reference: str | None, top_k: int) -> list[Standing]:
        """A query's first candidates and all right ones below them, of its first draw, in the ranker's order."""
        ...

    def right_and_wrong(self) -> tuple[Float[Tensor, " R"], Float[Tensor, " W"]]:
        """The scores of right and of wrong candidates."""
        ...


class Scored(NamedTuple):
    """Lists of N candidates, one a group, as one scorer has scored them."""

    scores: Float[Tensor, "B N"]
    labels: Float[Tensor, "B N"]
    mask: Bool[Tensor, "B N"]


class Evaluation:
    """Scores of B groups of up to K candidates; a query has several groups where several were drawn of it.

    Args:
        group: The group of the store each row is.
        slot: Each candidate's place in the store, -1 where there is none.
        labels: Relevance.
        scores: What the ranker gave.
        references: What stands beside it, by name; most score the same candidates.
    """

    def __init__(
        self,
        group: Int[Tensor, " B"],
        slot: Int[Tensor, "B K"],
        labels: Float[Tensor, "B K"],
        scores: Float[Tensor, "B K"],
        references: Mapping[str, Scored],
    ) -> None:
        self.group, self.slot, self.labels, self.scores, self.references = group, slot, labels, scores, references

    @property
    def mask(self) -> Bool[Tensor, "B K"]:
        """True where a candidate exists."""
        return self.slot >= 0

    @property
    def queries(self) -> Int[Tensor, " Q"]:
        """Each query's group, once, ascending: the order of all per-query values."""
        return self.group.unique()

    def per_query(self, metrics: Metrics) -> dict[str, Float[Tensor, " Q"]]:
        """Each metric for each query, in the order of `queries`; the mean over its groups."""
        return self._values(metrics, Scored(self.scores, self.labels, self.mask))

    def baselines(self, metrics: Metrics) -> dict[str, dict[str, Float[Tensor, " Q"]]]:
        """The same of the references, by name; nan for queries that a reference leaves out."""
        found = {name: self._values(metrics, scored) for name, scored in self.references.items()}
        for name, queries in self.left_out().items():
            found[name] = {metric: values.masked_fill(queries, torch.nan) for metric, values in found[name].items()}
        return found

    def left_out(self) -> dict[str, Bool[Tensor, " Q"]]:
        """The queries for which a reference has an empty list, by the name of the reference."""
        lists = {name: self.group[scored.mask.any(dim=1)] for name, scored in self.references.items()}
        found = {name: ~torch.isin(self.queries, groups) for name, groups in lists.items()}
        return {name: queries for name, queries in found.items() if bool(queries.any())}

    def rankings(self) -> Iterator[tuple[int, Ranked]]:
        """Each group, once a draw, and its candidates in order: slot, score, label."""
        for place, group in enumerate(self.group.tolist()):
            scores = self.scores[place].masked_fill(~self.mask[place], -torch.inf)
            order = scores.argsort(descending=True, stable=True)[: int(self.mask[place].sum())]
            columns = (self.slot[place, order], scores[order], self.labels[place, order])
            yield group, list(zip(*(column.tolist() for column in columns), strict=True))

    def standings(self, query: int, reference: str | None, top_k: int) -> list[Standing]:
        """A query's first candidates and all right ones below them, of its first draw, in the ranker's order."""
        row = int((self.group == query).nonzero()[0])
        mask, labels = self.mask[row], self.labels[row]
        beside = self.references.get(reference) if reference else None
        ranks = [None] * len(mask)
        if beside is not None and beside.mask[row].equal(mask):
            ranks = ranks_of(Places.of_scores(beside.scores[row : row + 1], mask.unsqueeze(0)))
        scores = self.scores[row].masked_fill(~mask, -torch.inf)
        order = scores.argsort(descending=True, stable=True)[: int(mask.sum())].tolist()
        return [
            Standing(int(self.slot[row, place]), rank, float(scores[place]), float(labels[place]), ranks[place])
            for rank, place in enumerate(order, start=1)
            if rank <= top_k or labels[place] > 0
        ]

    def right_and_wrong(self) -> tuple[Float[Tensor, " R"], Float[Tensor, " W"]]:
        """The scores of right and of wrong candidates."""
        right = self.labels > 0
        return self.scores[right & self.mask], self.scores[~right & self.mask]

    def _values(self, metrics: Metrics, scored: Scored) -> dict[str, Float[Tensor, " Q"]]:
        queries, place, count = self.group.unique(return_inverse=True, return_counts=True)
        labels = scored.labels.masked_fill(~scored.mask, 0)
        places = Places.of_scores(scored.scores, scored.mask)
        values = {name: metric(*places, labels, labels > 0) for name, metric in metrics.items()}
        return {
            name: torch.zeros(len(queries), dtype=torch.float64).index_add_(0, place, value.double()) / count
            for name, value in values.items()
        }


class EvaluationState(Metric):
    """Collects batches into one Evaluation.

    Args:
        references: The names of what stands beside the ranker.
        distributed: Whether the processes of a run share the queries, rather than each having all.
    """

    full_state_update = False
    group: list[Tensor]
    slot: list[Tensor]
    labels: list[Tensor]
    scores: list[Tensor]

    def __init__(self, references: Sequence[str] = (), *, distributed: bool = True) -> None:
        super().__init__(compute_on_cpu=True, sync_on_compute=distributed, dist_sync_fn=gathered)
        self._references = list(references)
        beside = [f"{part}_{place}" for place in range(len(self._references)) for part in Scored._fields]
        for name in ("group", "slot", "labels", "scores", *beside):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self, batch: Batch, scores: Float[Tensor, "B K"], references: Mapping[str, Scored] = MappingProxyType({})
    ) -> None:
        """Add the scores of one batch.

        Raises:
            ValueError: If a candidate that exists has a score that is no number.
        """
        if torch.isnan(scores[batch.mask]).any():
            raise ValueError(f"the ranker scored candidates of groups {batch.group.tolist()} as nan")
        self.group.append(batch.group)
        self.slot.append(torch.where(batch.mask, batch.slot, -1))
        self.labels.append(batch.labels)
        self.scores.append(scores)
        for place, name in enumerate(self._references):
            scored = references[name]
            if scored.scores.shape != scored.mask.shape or torch.isnan(scored.scores[scored.mask]).any():
                shape = list(scored.scores.shape)
                raise ValueError(f"the reference {name} gave scores of shape {shape}, or nan, where numbers are due")
            for part, value in references[name]._asdict().items():
                getattr(self, f"{part}_{place}").append(value)

    def compute(self) -> Evaluation:
        """Everything collected, sorted by group, so that it does not depend on how many processes there were."""
        order = torch.argsort(joined(self.group), stable=True)
        columns = {name: joined(getattr(self, name))[order] for name in ("group", "slot", "labels", "scores")}
        references = {
            name: Scored(*(joined(getattr(self, f"{part}_{place}"))[order] for part in Scored._fields))
            for place, name in enumerate(self._references)
        }
        return Evaluation(**columns, references=references)


def ranks_of(places: Places) -> list[tuple[int, int] | None]:
    """The first and last rank that each candidate can have, flattened; None for candidates that are nowhere.

    >>> ranks_of(Places(torch.tensor([0.0, 1.0, 1.0, torch.inf]), torch.tensor([0.0, 1.0, 1.0, 0.0])))
    [(1, 1), (2, 3), (2, 3), None]
    """
    found = zip(places.above.flatten().tolist(), places.tied.flatten().tolist(), strict=True)
    return [None if math.isinf(above) else (int(above) + 1, int(above + tied) + 1) for above, tied in found]


def gathered(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """The tensors of all processes, on the CPU; by way of the GPU where only GPUs can talk to each other."""
    on_gpu = torch.distributed.get_backend(group) == "nccl"
    found = gather_all_tensors(tensor.cuda() if on_gpu else tensor, group)
    return [each.cpu() for each in found]


def joined(parts: list[Tensor] | Tensor) -> Tensor:
    """The state of a torchmetrics metric, whether it is still a list or gathered already, on the CPU."""
    if isinstance(parts, Tensor):
        return parts.cpu()
    return torch.cat(parts).cpu() if parts else torch.empty(0)
