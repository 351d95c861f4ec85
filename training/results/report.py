"""Report: what a run found out, as a table to read and as files to compute with."""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from torch import Tensor

from console.decimals import decimal, interval
from console.tables import new_table
from ranking.evaluation import Judged, Metrics
from ranking.pool_evaluation import DIRECT, PoolEvaluation
from ranking.significance import Interval, mean_interval, paired_difference
from ranking.stores.files import as_json, write_file

BOUND = "oracle"
# The ranker's metrics where judged candidates that the pool lacks do not count.
WITHIN = "within the pool"
# What is known of values of which one is no number.
_UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Report:
    """Metrics of a ranker and of the baselines on the same queries.

    Args:
        name: The ranker's.
        per_query: Scorer -> metric -> one value a query; the ranker's own under its name.
        queries: The group of each query, in the order of the values.
        num_missing: Judged candidates that are not in the pool. They count as never found; a second set of the ranker's
            metrics leaves them out.
    """

    name: str
    per_query: Mapping[str, Mapping[str, Tensor]]
    queries: Sequence[int]
    num_missing: int = 0

    @classmethod
    def of(cls, name: str, evaluation: Judged, metrics: Metrics) -> "Report":
        """The report of one evaluation: baselines, the ranker, and the best that is possible where it is known."""
        baselines = evaluation.baselines(metrics)
        bound = {BOUND: baselines.pop(BOUND)} if BOUND in baselines else {}
        per_query = {**baselines, name: evaluation.per_query(metrics), **bound}
        missing = 0
        if isinstance(evaluation, PoolEvaluation) and (missing := evaluation.num_missing):
            per_query[WITHIN] = evaluation.within_pool(metrics)
        return cls(name, per_query, evaluation.queries.tolist(), missing)

    @cached_property
    def means(self) -> dict[str, dict[str, Interval]]:
        """Each scorer's metrics with a 95 % bootstrap interval over queries."""
        return {
            scorer: {metric: mean_of(values) for metric, values in metrics.items()}
            for scorer, metrics in self.per_query.items()
        }

    @cached_property
    def differences(self) -> dict[str, dict[str, Interval]]:
        """For each other scorer and metric, the paired bootstrap interval of the ranker's difference to it."""
        ours = self.per_query[self.name]
        return {
            scorer: {metric: _difference(ours[metric], values) for metric, values in them.items()}
            for scorer, them in self.per_query.items()
            if scorer not in (self.name, BOUND, WITHIN)
        }

    def best_baseline(self, metric: str) -> str | None:
        """The baseline with the highest mean, if there is one."""
        baselines = [scorer for scorer in self.differences if scorer != DIRECT]
        known = [scorer for scorer in baselines if not math.isnan(self.means[scorer][metric].mean)]
        return max(known or baselines, key=lambda scorer: self.means[scorer][metric].mean, default=None)

    def results(self) -> dict[str, Any]:
        """Everything as plain values for a json file."""
        return {
            "queries": len(self.queries),
            **({"judged_but_not_in_the_pool": self.num_missing} if self.num_missing else {}),
            "scorers": {
                scorer: {metric: _plain(interval) for metric, interval in metrics.items()}
                for scorer, metrics in self.means.items()
            },
            "differences": {
                scorer: {metric: _plain(interval) for metric, interval in metrics.items()}
                for scorer, metrics in self.differences.items()
            },
        }

    def table(self, split: str) -> Table:
        """Scorers by metrics, and the difference that the run made."""
        metrics = list(self.per_query[self.name])
        count = "1 query, which has no interval" if len(self.queries) == 1 else f"{len(self.queries):,} queries"
        intervals = "" if len(self.queries) == 1 else ", 95 % bootstrap intervals"
        lacking = f"; {self.num_missing:,} judged candidates are not in the pool" if self.num_missing else ""
        table = new_table("", *metrics, title=f"{split}: {count}{intervals}{lacking}")
        for scorer, means in self.means.items():
            cells = [decimal(mean.mean) + _bounds(mean) for mean in means.values()]
            table.add_row(escape(scorer), *cells, style="bold" if scorer == self.name else None)
        table.add_section()
        rows = {"difference": [(self.best_baseline(metric), metric) for metric in metrics]}
        if DIRECT in self.differences:
            rows["scaling adds"] = [(DIRECT, metric) for metric in metrics]
        for title, cells in rows.items():
            table.add_row(title, *(self._difference(scorer, metric) for scorer, metric in cells))
        return table

    def _difference(self, scorer: str | None, metric: str) -> str:
        if scorer is None:
            return ""
        found = self.differences[scorer][metric]
        style = "green" if found.low > 0 else "red" if found.high < 0 else "yellow"
        over = "" if scorer == DIRECT else f"\nover {escape(scorer)}"
        return f"[{style}]{decimal(found.mean, signed=True)}[/]{_bounds(found, signed=True)}{over}"


def write_per_query(path: Path, report: Report, query_id: Callable[[int], str]) -> None:
    """One row a query and scorer: query_id, scorer, then each metric."""
    metrics = list(report.per_query[report.name])
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["query_id", "scorer", *metrics])
    names = [query_id(query) for query in report.queries]
    for scorer, values in report.per_query.items():
        columns = [values[metric].tolist() for metric in metrics]
        writer.writerows([name, scorer, *row] for name, *row in zip(names, *columns, strict=True))
    write_file(path, lines.getvalue().encode())


def write_trec_run(path: Path, evaluation: Judged, datamodule: Any, tag: str) -> None:
    """The ranking in TREC's form, `query_id Q0 candidate_id rank score tag`, blanks in ids as %20.

    Where several groups were drawn of a query, they are told apart as `query_id#1`, `query_id#2`.
    """
    rankings, seen = list(evaluation.rankings()), Counter[int]()
    drawn_often = len(evaluation.queries) < len(rankings)
    candidate_id = cache(lambda candidate: trec_id(datamodule.candidate_id(candidate)))
    lines = []
    for query, ranked in rankings:
        seen[query] += 1
        query_id = trec_id(datamodule.query_id(query)) + (f"#{seen[query]}" if drawn_often else "")
        for rank, (candidate, score, _) in enumerate(ranked, start=1):
            lines.append(f"{query_id} Q0 {candidate_id(candidate)} {rank} {score:.9g} {tag}\n")
    write_file(path, "".join(lines).encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Plain values as json that a person can read."""
    write_file(path, as_json(content))


def mean_of(values: Tensor) -> Interval:
    """The mean over queries with its interval; nan where the value of a query is no number."""
    return mean_interval(values.numpy()) if bool(values.isfinite().all()) else _UNKNOWN


def _difference(ours: Tensor, theirs: Tensor) -> Interval:
    known = bool(ours.isfinite().all() and theirs.isfinite().all())
    return paired_difference(ours.numpy(), theirs.numpy()) if known else _UNKNOWN


def _bounds(found: Interval, *, signed: bool = False) -> str:
    """The line below a number; none where a single query, or a value that is no number, leaves no interval."""
    if not math.isfinite(found.low):
        return ""
    return f"\n[dim]{interval(found.low, found.high, signed=signed)}[/]"


def _plain(interval: Interval) -> dict[str, float | None]:
    """For json, which has no infinity: the interval of a single query is null to null."""
    return {key: value if math.isfinite(value) else None for key, value in asdict(interval).items()}


def trec_id(name: str) -> str:
    """An id as a run file can hold it: blanks as %20."""
    return "".join(f"%{ord(letter):02X}" if letter.isspace() or letter == "%" else letter for letter in name)
