"""Evaluation: the scores that a ranker gave to every candidate of a split, and the baselines beside them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from ranking.batch import Batch
from ranking.places import Places

Metrics = Mapping[str, Callable[..., Tensor]]
"""Functions of (above, tied, labels, relevant) by name, as those of `ranking.metrics`."""

Ranked = list[tuple[int, float, float]]
"""Candidates of a query, best first: slot or row, score, label."""


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
        """The same of other scorers, by name."""
        ...

    def rankings(self) -> Iterator[tuple[int, Ranked]]:
        """Each query, once a draw, and its candidates in order."""
        ...

    def right_and_wrong(self) -> tuple[Float[Tensor, " R"], Float[Tensor, " W"]]:
        """The scores of right and of wrong candidates."""
        ...


class Evaluation:
    """Scores of B groups of up to K candidates; a query has several groups where several were drawn of it.

    Args:
        group: The group of the store each row is.
        slot: Each candidate's place in the store, -1 where there is none.
        labels: Relevance.
        scores: What the ranker gave.
        references: What other scorers gave, such as the cosine of the raw features.
        beam: The label of what a beam search found for the query, which is none of the candidates; None if none was
            made.
    """

    def __init__(
        self,
        group: Int[Tensor, " B"],
        slot: Int[Tensor, "B K"],
        labels: Float[Tensor, "B K"],
        scores: Float[Tensor, "B K"],
        references: dict[str, Float[Tensor, "B K"]],
        beam: Float[Tensor, " B"] | None = None,
    ) -> None:
        self.group, self.slot, self.labels, self.scores, self.references = group, slot, labels, scores, references
        self.beam = beam

    @property
    def mask(self) -> Bool[Tensor, "B K"]:
        """True where a candidate exists."""
        return self.slot >= 0

    @property
    def queries(self) -> Int[Tensor, " Q"]:
        """Each query's group, once, ascending: the order of all per-query values."""
        return self.group.unique()

    def baseline_scores(self) -> dict[str, Float[Tensor, "B K"]]:
        """Scores that need no training.

        `first` puts the first candidate drawn before all others, `random` ties all, `stored` keeps the order of the
        store, `majority` prefers answers that many of the candidates give, `likeliest` what the language model found
        most probable, `oracle` knows the labels and is the best that any ranker can do. Ties count as
        their expectation.
        """
        first = torch.zeros_like(self.scores)
        first[:, 0] = 1
        start = self.slot.masked_fill(~self.mask, self.slot.max()).amin(dim=1, keepdim=True)
        stored = -(self.slot - start).float()
        random = torch.zeros_like(self.scores)
        return {"first": first, "random": random, "stored": stored, **self.references, "oracle": self.labels}

    def per_query(self, metrics: Metrics) -> dict[str, Float[Tensor, " Q"]]:
        """Each metric for each query, in the order of `queries`; the mean over its groups.

        Candidates with a label above 0 are relevant.
        """
        return self._values(metrics, self.scores, self.labels, self.mask)

    def baselines(self, metrics: Metrics) -> dict[str, dict[str, Float[Tensor, " Q"]]]:
        """The same of the baselines, by name; `beam` is a list of one, and a miss where there is no label of it."""
        found = {
            name: self._values(metrics, scores, self.labels, self.mask)
            for name, scores in self.baseline_scores().items()
        }
        if self.beam is not None:
            label = self.beam.nan_to_num(0).unsqueeze(1)
            alone = self._values(metrics, torch.zeros_like(label), label, torch.ones_like(label, dtype=torch.bool))
            found = {"beam": alone, **found}
        return found

    def rankings(self) -> Iterator[tuple[int, Ranked]]:
        """Each group, once a draw, and its candidates in order: slot, score, label."""
        for place, group in enumerate(self.group.tolist()):
            scores = self.scores[place].masked_fill(~self.mask[place], -torch.inf)
            order = scores.argsort(descending=True, stable=True)[: int(self.mask[place].sum())]
            columns = (self.slot[place, order], scores[order], self.labels[place, order])
            yield group, list(zip(*(column.tolist() for column in columns), strict=True))

    def right_and_wrong(self) -> tuple[Float[Tensor, " R"], Float[Tensor, " W"]]:
        """The scores of right and of wrong candidates."""
        right = self.labels > 0
        return self.scores[right & self.mask], self.scores[~right & self.mask]

    def _values(
        self,
        metrics: Metrics,
        scores: Float[Tensor, "B N"],
        labels: Float[Tensor, "B N"],
        mask: Bool[Tensor, "B N"],
    ) -> dict[str, Float[Tensor, " Q"]]:
        queries, place, count = self.group.unique(return_inverse=True, return_counts=True)
        places, labels = Places.of_scores(scores, mask), labels.masked_fill(~mask, 0)
        values = {name: metric(*places, labels, labels > 0) for name, metric in metrics.items()}
        return {
            name: torch.zeros(len(queries), dtype=torch.float64).index_add_(0, place, value.double()) / count
            for name, value in values.items()
        }


_REFERENCES = ("cosine", "majority", "likeliest")


class EvaluationState(Metric):
    """Collects batches, over all processes, into one Evaluation."""

    full_state_update = False
    group: list[Tensor]
    slot: list[Tensor]
    labels: list[Tensor]
    scores: list[Tensor]
    cosine: list[Tensor]
    majority: list[Tensor]
    likeliest: list[Tensor]
    beam: list[Tensor]

    def __init__(self) -> None:
        super().__init__(compute_on_cpu=True)
        for name in ("group", "slot", "labels", "scores", "beam", *_REFERENCES):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, batch: Batch, scores: Float[Tensor, "B K"]) -> None:
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
        for name, reference in batch.reference_scores().items():
            getattr(self, name).append(reference)
        if (beam := getattr(batch, "beam", None)) is not None:
            self.beam.append(beam)

    def compute(self) -> Evaluation:
        """Everything collected, sorted by group, so that it does not depend on how many processes there were."""
        names = ("group", "slot", "labels", "scores")
        columns = {name: joined(getattr(self, name)) for name in (*names, "beam", *_REFERENCES)}
        order = torch.argsort(columns["group"], stable=True)
        columns = {name: column[order] for name, column in columns.items() if len(column) or name in names}
        references = {name: columns.pop(name) for name in _REFERENCES if name in columns}
        return Evaluation(**columns, references=references)


def joined(parts: list[Tensor] | Tensor) -> Tensor:
    """The state of a torchmetrics metric, whether it is still a list or gathered already, on the CPU."""
    if isinstance(parts, Tensor):
        return parts.cpu()
    return torch.cat(parts).cpu() if parts else torch.empty(0)
