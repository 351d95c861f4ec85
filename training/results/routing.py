"""Routing report: what each scorer's choices earn and cost, beside the best single model and the best possible."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from console.decimals import decimal, interval
from console.tables import new_table
from ranking.evaluation import Evaluation, Scored
from ranking.places import Places
from ranking.significance import Interval
from ranking.stores.group_store import GroupStore
from training.results.report import mean_of, plain

EARNED = ("label", "performance", "cost")


@dataclass(frozen=True)
class RoutingReport:
    """The mean label, performance and cost of the models that each scorer chooses; nan for costs that are not known.

    Args:
        name: The ranker's name.
        scorers: Scorer -> what is measured -> the mean over queries, with a 95 % bootstrap interval.
        num_queries: Number of queries.
        num_equal: Number of queries for which all models have the same label: every choice earns the same there.
    """

    name: str
    scorers: Mapping[str, Mapping[str, Interval]]
    num_queries: int
    num_equal: int

    @classmethod
    def of(cls, name: str, evaluation: Evaluation, store: GroupStore) -> "RoutingReport":
        """Measure the choices of a ranker and of the references that choose from the same models.

        Args:
            name: The ranker's name.
            evaluation: The scores of ranker and references.
            store: The store with performances and costs.
        """
        own = Scored(evaluation.scores, evaluation.labels, evaluation.mask)
        alike = {other: each for other, each in evaluation.references.items() if each.mask.equal(own.mask)}
        slots = evaluation.slot.clamp(min=0)
        assert store.performance is not None and store.cost is not None
        columns = dict(zip(EARNED, (evaluation.labels, store.performance[slots], store.cost[slots]), strict=True))
        scorers = {
            scorer: {what: mean_of(_chosen(scored, values)) for what, values in columns.items()}
            for scorer, scored in {**alike, name: own}.items()
        }
        high = evaluation.labels.masked_fill(~own.mask, -torch.inf).amax(dim=1)
        low = evaluation.labels.masked_fill(~own.mask, torch.inf).amin(dim=1)
        return cls(name, scorers, len(evaluation.group), int((high == low).sum()))

    def results(self) -> dict[str, Any]:
        """All results as plain values for a json file."""
        scorers = {
            scorer: {what: plain(mean) for what, mean in means.items()} for scorer, means in self.scorers.items()
        }
        return {"queries": self.num_queries, "equal": self.num_equal, "scorers": scorers}

    def table(self) -> Table:
        """A table of scorers."""
        title = f"routing: {self.num_queries:,} test queries; all models are equal for {self.num_equal:,} of them"
        table = new_table("", *EARNED, title=title)
        for scorer, means in self.scorers.items():
            style = "bold" if scorer == self.name else None
            table.add_row(escape(scorer), *map(_cell, means.values()), style=style)
        return table


def _chosen(scored: Scored, values: Tensor) -> Tensor:
    """The value of each query's first candidate; the mean over those that share the first place."""
    places = Places.of_scores(scored.scores, scored.mask)
    first = scored.mask & (places.above == 0)
    return torch.where(first, values.double() / (places.tied + 1), 0).sum(dim=1)


def _cell(found: Interval) -> str:
    bounds = f"\n[dim]{interval(found.low, found.high)}[/]" if found.low == found.low else ""
    return decimal(found.mean) + bounds if found.mean == found.mean else "unknown"
