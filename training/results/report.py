"""Report: the results of a run, as a table to read and as files to compute with."""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from console.decimals import decimal, interval
from console.tables import new_table
from rankers.checkpoint import with_room
from ranking.evaluation import Judged, Metrics
from ranking.pools.pool_evaluation import DIRECT, UNMIXED, PoolEvaluation
from ranking.significance import Interval, holm, mean_interval, paired_difference, paired_p_values
from ranking.stores.files import as_json, write_file

BOUND = "oracle"
# The ranker's metrics without judged candidates that are not in the pool.
WITHIN = "within the pool"
# What stands beside the ranker and uses it, so it is no rival.
_OF_THE_RANKER = (DIRECT, UNMIXED, "weighted_majority")
# What a part of the ranker adds, by the name of the ranker without it.
_ADDED = {DIRECT: "scaling adds", UNMIXED: "the encoder's share adds"}
# The interval of values that include a nan.
_UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Report:
    """Metrics of a ranker and of the baselines on the same queries.

    Args:
        name: The ranker's name.
        per_query: Scorer -> metric -> one value per query; the ranker's values are under its name.
        queries: The group of each query, in the order of the values.
        num_missing: Number of judged candidates that are not in the pool. They count as never found. A second set of
            the ranker's metrics leaves them out.
        left_out: Scorer -> whether it leaves out each query; its mean and its difference are over the others.
    """

    name: str
    per_query: Mapping[str, Mapping[str, Tensor]]
    queries: Sequence[int]
    num_missing: int = 0
    left_out: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, evaluation: Judged, metrics: Metrics) -> "Report":
        """The report of one evaluation: baselines, the ranker, and the best possible result if it is known."""
        baselines = evaluation.baselines(metrics)
        bound = {BOUND: baselines.pop(BOUND)} if BOUND in baselines else {}
        per_query = {**baselines, name: evaluation.per_query(metrics), **bound}
        missing = 0
        if isinstance(evaluation, PoolEvaluation) and (missing := evaluation.num_missing):
            per_query[WITHIN] = evaluation.within_pool(metrics)
        return cls(name, per_query, evaluation.queries.tolist(), missing, evaluation.left_out())

    @cached_property
    def means(self) -> dict[str, dict[str, Interval]]:
        """The mean of each scorer's metrics, with a 95 % bootstrap interval over queries."""
        return {
            scorer: {metric: mean_of(values[self._kept(scorer)]) for metric, values in metrics.items()}
            for scorer, metrics in self.per_query.items()
        }

    @cached_property
    def differences(self) -> dict[str, dict[str, Interval]]:
        """The ranker's difference to each other scorer per metric, with its paired bootstrap interval."""
        ours = self.per_query[self.name]
        return {
            scorer: {metric: _difference(ours[metric][kept], values[kept]) for metric, values in them.items()}
            for scorer, them in self.per_query.items()
            for kept in (self._kept(scorer),)
            if scorer not in (self.name, BOUND, WITHIN)
        }

    def best_baseline(self, metric: str) -> str | None:
        """The baseline over which the ranker gains least; None without baselines that do not use the ranker itself."""
        baselines = [scorer for scorer in self.differences if scorer not in _OF_THE_RANKER]
        known = [scorer for scorer in baselines if not math.isnan(self.differences[scorer][metric].mean)]
        return min(known or baselines, key=lambda scorer: self.differences[scorer][metric].mean, default=None)

    @cached_property
    def p_values(self) -> dict[str, dict[str, float | None]]:
        """The p-value of each difference to another scorer, by a paired randomization test with Holm's correction.

        The correction is over the scorers, for each metric alone. None where values are not numbers.
        """
        found: dict[str, dict[str, float | None]] = {}
        ours = self.per_query[self.name]
        for scorer, differences in self.differences.items():
            known = [metric for metric, difference in differences.items() if not math.isnan(difference.mean)]
            columns = [(ours[each] - self.per_query[scorer][each])[self._kept(scorer)].double() for each in known]
            values = paired_p_values(torch.stack(columns, dim=1).numpy()) if columns else []
            found[scorer] = {**dict.fromkeys(differences), **dict(zip(known, values, strict=True))}
        for metric in ours:
            tested = {scorer: p for scorer in found if (p := found[scorer][metric]) is not None}
            for scorer, p in zip(tested, holm([*tested.values()]), strict=True):
                found[scorer][metric] = p
        return found

    def tests(self) -> dict[str, Any]:
        """The best baseline of each metric and all p-values, as plain values for a json file."""
        best = {metric: self.best_baseline(metric) for metric in self.per_query[self.name]}
        return {"best_baseline": best, "p_values": self.p_values}

    def results(self) -> dict[str, Any]:
        """All results as plain values for a json file."""
        return {
            "queries": len(self.queries),
            **({"judged_but_not_in_the_pool": self.num_missing} if self.num_missing else {}),
            **({"left_out": self._num_left_out()} if self.left_out else {}),
            "scorers": {
                scorer: {metric: plain(interval) for metric, interval in metrics.items()}
                for scorer, metrics in self.means.items()
            },
            "differences": {
                scorer: {metric: plain(interval) for metric, interval in metrics.items()}
                for scorer, metrics in self.differences.items()
            },
        }

    def table(self, split: str) -> Table:
        """A table of scorers by metrics, with the ranker's difference to the best baseline."""
        metrics = list(self.per_query[self.name])
        count = "1 query, which has no interval" if len(self.queries) == 1 else f"{len(self.queries):,} queries"
        intervals = "" if len(self.queries) == 1 else ", 95 % bootstrap intervals"
        lacking = f"; {self.num_missing:,} judged candidates are not in the pool" if self.num_missing else ""
        lacking += "".join(f"; {scorer} leaves out {number:,}" for scorer, number in self._num_left_out().items())
        table = new_table("", *metrics, title=f"{split}: {count}{intervals}{escape(lacking)}")
        for scorer, means in self.means.items():
            cells = [decimal(mean.mean) + _bounds(mean) for mean in means.values()]
            table.add_row(escape(scorer), *cells, style="bold" if scorer == self.name else None)
        table.add_section()
        rows = {"difference": [(self.best_baseline(metric), metric) for metric in metrics]}
        for without, title in _ADDED.items():
            if without in self.differences:
                rows[title] = [(without, metric) for metric in metrics]
        for title, cells in rows.items():
            table.add_row(title, *(self._difference(scorer, metric) for scorer, metric in cells))
        return table

    def _kept(self, scorer: str) -> Tensor | slice:
        """The queries that a scorer does not leave out, as an index of per-query values."""
        return ~self.left_out[scorer] if scorer in self.left_out else slice(None)

    def _num_left_out(self) -> dict[str, int]:
        return {scorer: int(queries.sum()) for scorer, queries in self.left_out.items()}

    def _difference(self, scorer: str | None, metric: str) -> str:
        if scorer is None:
            return ""
        found = self.differences[scorer][metric]
        style = "green" if found.low > 0 else "red" if found.high < 0 else "yellow"
        over = "" if scorer in _ADDED else f"\nover {escape(scorer)}"
        return f"[{style}]{decimal(found.mean, signed=True)}[/]{_bounds(found, signed=True)}{over}"


def write_per_query(path: Path, report: Report, query_id: Callable[[int], str]) -> None:
    """Write one row per query and scorer that does not leave it out: query_id, scorer, then each metric."""
    metrics = list(report.per_query[report.name])
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["query_id", "scorer", *metrics])
    names = [query_id(query) for query in report.queries]
    for scorer, values in report.per_query.items():
        columns = [values[metric].tolist() for metric in metrics]
        kept = (~report.left_out[scorer]).tolist() if scorer in report.left_out else [True] * len(names)
        rows = zip(kept, names, *columns, strict=True)
        writer.writerows([name, scorer, *row] for keep, name, *row in rows if keep)
    write_file(path, lines.getvalue().encode(), cure=with_room(path.parent))


def write_trec_run(path: Path, evaluation: Judged, datamodule: Any, tag: str) -> None:
    """Write the ranking in TREC format, `query_id Q0 candidate_id rank score tag`; spaces in ids become %20.

    If a query has several draws, their ids are `query_id#1`, `query_id#2` and so on.
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
    write_file(path, "".join(lines).encode(), cure=with_room(path.parent))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values as indented json."""
    write_file(path, as_json(content), cure=with_room(path.parent))


def mean_of(values: Tensor) -> Interval:
    """The mean over queries with its interval; nan without queries, or if the value of one is nan."""
    return mean_interval(values.numpy()) if len(values) and bool(values.isfinite().all()) else _UNKNOWN


def _difference(ours: Tensor, theirs: Tensor) -> Interval:
    known = bool(len(ours) and ours.isfinite().all() and theirs.isfinite().all())
    return paired_difference(ours.numpy(), theirs.numpy()) if known else _UNKNOWN


def _bounds(found: Interval, *, signed: bool = False) -> str:
    """The interval to print below a number; empty if a single query or a nan gives no interval."""
    if not math.isfinite(found.low):
        return ""
    return f"\n[dim]{interval(found.low, found.high, signed=signed)}[/]"


def plain(interval: Interval) -> dict[str, float | None]:
    """An interval for json, which has no infinity: the bounds of a single query are null."""
    return {key: value if math.isfinite(value) else None for key, value in asdict(interval).items()}


def trec_id(name: str) -> str:
    """An id for a run file: spaces become %20."""
    return "".join(f"%{ord(letter):02X}" if letter.isspace() or letter == "%" else letter for letter in name)
