"""Length-controlled report: how often each scorer's first choice beats the reference, with and without its length."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table

from console.decimals import decimal, interval
from console.tables import new_table
from features.reading.reference_outputs import ReferenceOutputs
from ranking.evaluation import Evaluation, Scored
from ranking.length_control import (
    Comparisons,
    LengthControl,
    control_length,
    percentile_interval,
    resampled_win_rates,
)
from ranking.places import Places
from ranking.significance import Interval
from ranking.stores.group_store import GroupStore

MIN_QUERIES = 5


@dataclass(frozen=True)
class ScorerControl:
    """Win rates of one scorer's first choices.

    Args:
        win_rate: The mean preference.
        controlled: The length-controlled win rate, with a 95 % bootstrap interval of models fitted to drawn queries.
        num_characters: The mean length of the first choices.
        fit: The model.
        difference: The ranker's length-controlled win rate minus this one, on the same draws; None for the ranker.
    """

    win_rate: float
    controlled: Interval
    num_characters: float
    fit: LengthControl
    difference: Interval | None


@dataclass(frozen=True)
class LengthControlReport:
    """Length-controlled win rates of a ranker and of the references that choose from the same candidates.

    Args:
        name: The ranker's name.
        scorers: By name, the ranker last.
        num_queries: Number of test queries that have a reference output.
        num_left_out: Number of test queries that have none.
    """

    name: str
    scorers: Mapping[str, ScorerControl]
    num_queries: int
    num_left_out: int

    @classmethod
    def of(
        cls, name: str, evaluation: Evaluation, store: GroupStore, outputs: ReferenceOutputs, num_resamples: int
    ) -> "LengthControlReport":
        """Fit a model for each scorer.

        Args:
            name: The ranker's name.
            evaluation: The scores of ranker and references.
            store: The store of the candidates' texts.
            outputs: The reference outputs of the queries.
            num_resamples: How often queries are drawn for an interval.

        Raises:
            ValueError: If fewer than five queries have a reference output, or a label is no preference.
        """
        own = Scored(evaluation.scores, evaluation.labels, evaluation.mask)
        alike = {other: each for other, each in evaluation.references.items() if each.mask.equal(own.mask)}
        choices = _Choices(evaluation, store, outputs)
        compared = {scorer: choices.of(scored) for scorer, scored in {**alike, name: own}.items()}
        fits = {scorer: control_length(each, outputs.told) for scorer, each in compared.items()}
        draws = {
            scorer: resampled_win_rates(each, outputs.told, fits[scorer].strength, num_resamples=num_resamples)
            for scorer, each in compared.items()
        }
        ours = fits[name].win_rate
        scorers = {
            scorer: ScorerControl(
                compared[scorer].win_rate,
                percentile_interval(fit.win_rate, draws[scorer]),
                choices.num_characters(compared[scorer]),
                fit,
                None if scorer == name else percentile_interval(ours - fit.win_rate, draws[name] - draws[scorer]),
            )
            for scorer, fit in fits.items()
        }
        known = len(np.unique(compared[name].query))
        return cls(name, scorers, known, len(evaluation.queries) - known)

    def results(self) -> dict[str, Any]:
        """All results as plain values for a json file."""
        scorers = {scorer: asdict(found) for scorer, found in self.scorers.items()}
        return {"queries": self.num_queries, "left_out": self.num_left_out, "scorers": scorers}

    def table(self) -> Table:
        """A table of scorers."""
        lacking = f"; {self.num_left_out:,} have no reference output" if self.num_left_out else ""
        title = f"length control: {self.num_queries:,} test queries{lacking}, 95 % bootstrap intervals"
        table = new_table("", "win_rate", "lc_win_rate", "ranker's gain", "characters", title=title)
        for scorer, found in self.scorers.items():
            gain = _cell(found.difference, signed=True) if found.difference else ""
            cells = (decimal(found.win_rate), _cell(found.controlled), gain, f"{found.num_characters:,.0f}")
            table.add_row(escape(scorer), *cells, style="bold" if scorer == self.name else None)
        return table


class _Choices:
    """What each scorer puts first, as comparisons with the reference."""

    def __init__(self, evaluation: Evaluation, store: GroupStore, outputs: ReferenceOutputs) -> None:
        self._evaluation, self._outputs = evaluation, outputs
        groups, self._query, counts = evaluation.group.unique(return_inverse=True, return_counts=True)
        self._texts = [store.query_text(group).strip() for group in groups.tolist()]
        self._share = 1 / counts.double()
        self._length = cache(lambda slot: len(store.candidate_text(int(store.candidate[slot]))))

    def of(self, scored: Scored) -> Comparisons:
        """The candidates in the first place; those that share it, or are of several draws, share the query's weight."""
        places = Places.of_scores(scored.scores, scored.mask)
        known = torch.tensor([text in self._outputs.length for text in self._texts])[self._query]
        row, column = (scored.mask & (places.above == 0) & known.unsqueeze(1)).nonzero(as_tuple=True)
        query = self._query[row]
        texts = [self._texts[place] for place in query.tolist()]
        lengths = [self._length(slot) for slot in self._evaluation.slot[row, column].tolist()]
        differences = [self._outputs.length[text] - length for text, length in zip(texts, lengths, strict=True)]
        difficulty = self._outputs.difficulty
        return Comparisons(
            query.numpy(),
            scored.labels[row, column].double().numpy(),
            np.array(differences, dtype=np.float64),
            None if difficulty is None else np.array([difficulty[text] for text in texts]),
            (self._share[query] / (places.tied[row, column] + 1)).numpy(),
        )

    def num_characters(self, comparisons: Comparisons) -> float:
        """The mean length of what was compared."""
        reference = [self._outputs.length[self._texts[place]] for place in comparisons.query.tolist()]
        return float(np.average(np.array(reference) - comparisons.length_difference, weights=comparisons.weights))


def _cell(found: Interval, *, signed: bool = False) -> str:
    return f"{decimal(found.mean, signed=signed)}\n[dim]{interval(found.low, found.high, signed=signed)}[/]"
