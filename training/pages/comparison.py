"""Comparison: several runs on the same test queries, each pair of them tested."""

import itertools
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.markup import escape
from rich.table import Table

from console.decimals import decimal, interval
from console.tables import new_table
from ranking.significance import Interval, holm, paired_difference, paired_p_values
from registry import ConfigError
from registry.errors import shown
from training.pages.run_folder import RunFolder


@dataclass(frozen=True)
class Pair:
    """What one run gains over another.

    Args:
        over: The letter of the other run.
        run: The letter of the run.
        gains: By metric, the mean difference with its 95 % paired bootstrap interval.
        p_values: By metric, of a paired randomization test, with Holm's correction over all pairs.
    """

    over: str
    run: str
    gains: Mapping[str, Interval]
    p_values: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Several finished runs.

    Args:
        runs: By letter, in the order in which they were given.
    """

    runs: Mapping[str, RunFolder]

    @classmethod
    def of(cls, runs: Sequence[RunFolder]) -> "Comparison":
        """Compare runs.

        Raises:
            ConfigError: If they cannot be compared: fewer than two runs or more than 26, one that is not finished, no
                common metric or no common query.
        """
        if not 2 <= len(runs) <= len(string.ascii_uppercase):
            raise ConfigError("compare", f"takes 2 to 26 runs, not {len(runs)}.", cure="name as many folders of runs")
        for run in runs:
            if not (run.metrics and run.per_query):
                cure = f"test it first: python train.py --resume {run.path}"
                raise ConfigError(str(run.path), "no finished run: it has no results on test.", cure=cure)
        found = cls(dict(zip(string.ascii_uppercase, runs, strict=False)))
        for what, known in (("metric", found.metrics), ("test query", found.queries)):
            if not known:
                problem = f"the runs have no {what} in common."
                raise ConfigError("compare", problem, cure="runs on the same test data, with the same metrics")
        return found

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics that all runs have."""
        names = [run.metrics["test"]["scorers"][run.ranker] for run in self.runs.values()]
        return [name for name in names[0] if all(name in each for each in names)]

    @cached_property
    def queries(self) -> list[str]:
        """The ids of the test queries that all runs have."""
        others = [run.per_query for run in self.runs.values()]
        return [query for query in others[0] if all(query in each for each in others)]

    @cached_property
    def pairs(self) -> list[Pair]:
        """Each pair of runs, those with the first run first."""
        letters = list(itertools.combinations(self.runs, 2))
        differences = [self._values(run) - self._values(over) for over, run in letters]
        p_values = np.array([paired_p_values(each) for each in differences])
        adjusted = np.array([holm(column) for column in p_values.T.tolist()]).T
        return [
            Pair(
                over,
                run,
                {
                    metric: paired_difference(self._values(run)[:, place], self._values(over)[:, place])
                    for place, metric in enumerate(self.metrics)
                },
                dict(zip(self.metrics, row, strict=True)),
            )
            for (over, run), row in zip(letters, adjusted.tolist(), strict=True)
        ]

    def results(self) -> dict[str, Any]:
        """All results as plain values for a json file."""
        return {
            "runs": {letter: str(run.path) for letter, run in self.runs.items()},
            "queries": len(self.queries),
            "pairs": [
                {
                    "over": pair.over,
                    "run": pair.run,
                    "gains": {metric: asdict(gain) for metric, gain in pair.gains.items()},
                    "p_values": dict(pair.p_values),
                }
                for pair in self.pairs
            ],
        }

    def table(self) -> Table:
        """A table of pairs by metrics."""
        count = f"{len(self.queries):,} common test queries"
        title = f"{count}, 95 % paired bootstrap intervals, p-values with Holm's correction"
        table = new_table("", *self.metrics, title=title)
        for pair in self.pairs:
            cells = [
                f"{decimal(gain.mean, signed=True)}\n[dim]{interval(gain.low, gain.high, signed=True)}\n"
                f"p {pair.p_values[metric]:.4f}[/]"
                for metric, gain in pair.gains.items()
            ]
            table.add_row(f"{pair.run} over {pair.over}", *cells)
        table.add_section()
        for letter, run in self.runs.items():
            means = [decimal(run.metrics["test"]["scorers"][run.ranker][metric]["mean"]) for metric in self.metrics]
            table.add_row(escape(f"{letter}: {run.title}"), *means)
        return table

    def differing_settings(self) -> dict[str, list[str]]:
        """The options of the configs that are not the same in all runs, with each run's value as a text."""
        options = [dict(_flat(run.config)) for run in self.runs.values()]
        names = dict.fromkeys(name for each in options for name in each)
        values = {name: [shown(each[name]) if name in each else "not set" for each in options] for name in names}
        return {name: found for name, found in values.items() if any(value != found[0] for value in found)}

    def most_different(self, metric: str, number: int) -> list[str]:
        """The queries for which the runs' values of a metric lie furthest apart."""
        values = np.stack([self._values(letter)[:, self.metrics.index(metric)] for letter in self.runs])
        spread = values.max(axis=0) - values.min(axis=0)
        order = np.argsort(-spread, kind="stable")[:number]
        return [self.queries[place] for place in order.tolist() if spread[place] > 0]

    def _values(self, letter: str) -> Float[np.ndarray, "Q M"]:
        found = self.runs[letter].per_query
        return np.array([[found[query][metric] for metric in self.metrics] for query in self.queries])


def _flat(options: Mapping[str, Any], prefix: str = "") -> Any:
    for name, value in options.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}.")
        else:
            yield path, value
