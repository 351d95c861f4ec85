"""Statistics: the numbers of each cell of a table: mean, interval, and whether it differs from its best rival."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

from scipy.stats import t as student

from benchmarks.tables.config import Column, Costs, Row, Section, TableSpec
from benchmarks.tables.runs import per_query
from benchmarks.tables.table import Key
from console.decimals import decimal, interval
from ranking.significance import Interval, holm, paired_p_value
from registry import ConfigError
from training.results.report import BOUND

Finding = Mapping[str, Any]
LEVEL = 0.05
TINY = 1e-9
RANKED = ("test", "val", "lc_win_rate")


@dataclass(frozen=True)
class Shown:
    """What a table shows in one cell.

    Args:
        value: The mean over seeds; None if the cell has no number.
        text: A text instead of a number; None for a number.
        half: Half of the 95 % interval over seeds, or over queries if there is one seed; None if it is unknown.
        mark: `+` or `-` if it is better or worse than its best rival, and a chance of at most 5 % explains it.
        best: Whether it is the best of its column.
        paper: The number in the paper.
        is_cost: Whether the number is a cost, which is shown with as many decimals as it needs.
        is_least: Whether the true number is larger: seconds of a training that `trainer.max_time` stopped.
    """

    value: float | None = None
    text: str | None = None
    half: float | None = None
    mark: str = ""
    best: bool = False
    paper: float | str | None = None
    is_cost: bool = False
    is_least: bool = False


def shown_section(spec: TableSpec, section: Section, findings: Mapping[Key, Finding]) -> dict[str, dict[str, Shown]]:
    """Row -> column or cost -> what the table shows, in one section."""
    config = spec.config
    found: dict[str, dict[str, Shown]] = {row.name: {} for row in config.rows}
    for column in config.columns:
        if column.value == "change":
            continue
        cells = {row.name: list(_cells(spec, section, row, column, findings)) for row in config.rows}
        values = {row.name: _summary(spec, row, column, cells[row.name]) for row in config.rows}
        ranked = {
            row.name: value
            for row in config.rows
            if not row.bound and (value := values[row.name].value) is not None and column.value in RANKED
        }
        best = max(ranked.values(), default=None)
        marks = _marks(spec, column, ranked, cells) if column.value == "test" else {}
        for row in config.rows:
            shown = values[row.name]
            paper = section.paper.get(row.name, {}).get(column.name)
            found[row.name][column.name] = Shown(
                shown.value,
                shown.text,
                shown.half,
                marks.get(row.name, ""),
                ranked.get(row.name, math.nan) == best,
                paper,
                column.value in get_args(Costs) or column.value == "context_cost",
                column.value == "fit" and _is_out_of_time(cells[row.name]),
            )
    for column in config.columns:
        for row in config.rows if column.between else []:
            before, after = (found[row.name][name].value for name in column.between or ())
            text = None if not before or after is None else f"{decimal(100 * (after / before - 1), 1, signed=True)} %"
            shown = Shown(text=text, paper=section.paper.get(row.name, {}).get(column.name))
            found[row.name][column.name] = shown
    for cost in config.costs:
        for row in config.rows:
            paper = section.paper.get(row.name, {}).get(cost)
            # Columns may show the same runs, which count once.
            with_runs = [column for column in config.columns if spec.place(column) == column.name]
            of = [finding for column in with_runs for finding in _cells(spec, section, row, column, findings)]
            numbers = [value for finding in of if (value := cost_of(finding, cost, row)) is not None]
            no_cost = row.of is not None or not numbers
            value, is_least = None if no_cost else fmean(numbers), cost == "fit" and _is_out_of_time(of)
            found[row.name][cost] = Shown(value, paper=paper, is_cost=True, is_least=is_least)
    return found


def on_other_candidates(spec: TableSpec, section: Section, findings: Mapping[Key, Finding]) -> dict[str, list[str]]:
    """Column -> the rows that were judged on other candidates than its first row, as references and counts tell."""
    found: dict[str, list[str]] = {}
    for column in spec.config.columns:
        for seed in spec.config.seeds:
            keys = [(row.name, (section.name, row.name, spec.place(column), seed)) for row in spec.config.rows]
            there = [(row, findings[key]) for row, key in keys if key in findings]
            for row, finding in there[1:]:
                if not _same_candidates(there[0][1], finding):
                    found.setdefault(column.name, []).append(row)
    return {column: list(dict.fromkeys(rows)) for column, rows in found.items()}


def _same_candidates(one: Finding, other: Finding) -> bool:
    if one.get("queries") != other.get("queries"):
        return False
    pairs = [
        (one["scorers"][name][metric], value)
        for name in ("first", BOUND) if name in one["scorers"]
        for metric, value in other["scorers"].get(name, {}).items() if metric in one["scorers"][name]
    ]  # fmt: skip
    return all(math.isclose(left, right, abs_tol=1e-6) for left, right in pairs)


def cost_of(finding: Finding, cost: str, row: Row) -> float | None:
    """A cost of a run: weights in millions, seconds, or GB; None where it is unknown."""
    if cost in ("parameters", "loaded"):
        count = finding.get({"parameters": "num_parameters", "loaded": "num_loaded"}[cost])
        return None if count is None else count / {"2^20": 2**20, "10^6": 10**6}[row.million]
    if cost == "memory":
        peak = finding.get("peak_bytes")
        return None if peak is None else peak / 1e9
    return finding["seconds"]["fit"] if cost == "fit" else finding.get("score_seconds")


def _is_out_of_time(cells: Iterable[Finding]) -> bool:
    return any(cell.get("out_of_time") for cell in cells)


def scorer_of(row: Row, column: Column, finding: Finding) -> str:
    """The scorer of the run that a cell shows."""
    return column.scorer or row.scorer or finding["settings"]["ranker"]["name"]


def over_seeds(values: list[float]) -> Interval:
    """The mean of independent runs with its 95 % interval by Student's t.

    >>> over_seeds([0.5, 0.5, 0.5])
    Interval(mean=0.5, low=0.5, high=0.5)
    """
    middle = fmean(values)
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Interval(middle, middle - half, middle + half)


def _cells(
    spec: TableSpec, section: Section, row: Row, column: Column, findings: Mapping[Key, Finding]
) -> Iterator[Finding]:
    for seed in spec.config.seeds:
        key = (section.name, spec.runs_of(row).name, spec.place(column), seed)
        if key in findings:
            yield findings[key]


def _summary(spec: TableSpec, row: Row, column: Column, cells: list[Finding]) -> Shown:
    if column.value == "below":
        return _below(spec, row, column, cells)
    values = [_value(spec, row, column, cell) for cell in cells]
    if not values or any(value is None for value in values):
        return Shown()
    if any(isinstance(value, str) for value in values):
        return Shown(text=" / ".join(str(value) for value in dict.fromkeys(values)))
    numbers = [float(value) for value in values if value is not None]
    scale = 100 if spec.config.percent and column.value in RANKED else 1
    if len(spec.config.seeds) > 1:
        # Equal values, such as an oracle's, say nothing of how far seeds lie apart.
        found = over_seeds(numbers) if max(numbers) > min(numbers) else None
        return Shown(fmean(numbers) * scale, half=None if found is None else (found.high - found.mean) * scale)
    half = None
    if column.value == "test" and "intervals" in cells[0]:
        bounds = cells[0]["intervals"][scorer_of(row, column, cells[0])][column.metric or spec.config.metric]
        half = None if bounds["low"] is None else (bounds["high"] - bounds["low"]) / 2 * scale
    return Shown(numbers[0] * scale, half=half)


def _below(spec: TableSpec, row: Row, column: Column, cells: list[Finding]) -> Shown:
    """How many seeds are worse than another scorer of the same run, and the worst of all seeds."""
    metric = column.metric or spec.config.metric
    if not cells or column.over is None or any(scorer_of(row, column, cell) not in cell["scorers"] for cell in cells):
        return Shown()
    gaps = [
        cell["scorers"][scorer_of(row, column, cell)][metric] - cell["scorers"][column.over][metric] for cell in cells
    ]
    worse, worst = sum(gap < -TINY for gap in gaps), decimal(min(gaps), signed=True)
    return Shown(text=f"{worse} of {len(gaps)}; mean {decimal(fmean(gaps), signed=True)}, worst {worst}")


def _value(spec: TableSpec, row: Row, column: Column, finding: Finding) -> float | str | None:
    metric = column.metric or spec.config.metric
    if column.value == "test":
        values = finding["scorers"].get(scorer_of(row, column, finding))
        if values is not None and metric not in values:
            raise ConfigError("metric", "the runs of this table have no such metric.", given=metric, known=values)
        return None if values is None else values[metric]
    if column.value == "val":
        return finding["val"][metric] if "val" in finding else None
    if column.value == "gain":
        if column.over not in finding["differences"]:
            known = finding["differences"]
            raise ConfigError("columns.over", "the runs have no such reference.", given=column.over, known=known)
        found = finding["differences"][column.over][metric]
        return f"{decimal(found['mean'], signed=True)} [{interval(found['low'], found['high'], signed=True)}]"
    if column.value == "scaling":
        chosen = finding["scaling"]
        return f"{chosen['width']} x {chosen['depth']}" if chosen else None
    if column.value == "spread":
        return f"{finding['spread']:.1e}"
    if column.value == "context_cost":
        return finding["seconds_more"] / finding["seconds_once"]
    if column.value == "lc_win_rate":
        found = (finding["length_control"] or {"scorers": {}})["scorers"].get(scorer_of(row, column, finding))
        return None if found is None else found["controlled"]["mean"]
    return cost_of(finding, column.value, row)


def _marks(
    spec: TableSpec, column: Column, ranked: Mapping[str, float], cells: Mapping[str, list[Finding]]
) -> dict[str, str]:
    """Test each row of ours against the best rival on the same queries, Holm over the column; `+` better, `-` worse."""
    rows = [row for row in spec.config.rows if row.name in ranked]
    queries = {row.name: _query_means(spec, row, column, cells[row.name]) for row in rows}
    tests: dict[str, tuple[float, float]] = {}
    any_ours = any(row.ours for row in rows)
    for row in rows:
        rivals = [other for other in rows if other is not row and not (any_ours and other.ours)]
        if not rivals or (any_ours and not row.ours):
            continue
        rival = max(rivals, key=lambda other: ranked[other.name])
        ours, theirs = queries[row.name], queries[rival.name]
        if both := [query for query in ours if query in theirs]:
            values, baseline = [ours[query] for query in both], [theirs[query] for query in both]
            tests[row.name] = paired_p_value(values, baseline), fmean(values) - fmean(baseline)
    adjusted = holm([p for p, _ in tests.values()])
    return {
        name: "+" if difference > 0 else "-"
        for (name, (_, difference)), p in zip(tests.items(), adjusted, strict=True)
        if p <= LEVEL
    }


def _query_means(spec: TableSpec, row: Row, column: Column, cells: list[Finding]) -> dict[str, float]:
    """The mean over seeds of each query; empty if a run's file is gone, as in results from another machine."""
    paths = [Path(cell["per_query"]) for cell in cells if "per_query" in cell]
    if len(paths) < len(cells) or not all(path.is_file() for path in paths):
        return {}
    metric = column.metric or spec.config.metric
    runs = [per_query(path, scorer_of(row, column, cell), metric) for path, cell in zip(paths, cells, strict=True)]
    if any(run.keys() != runs[0].keys() for run in runs):
        return {}
    return {query: fmean(run[query] for run in runs) for query in runs[0]}
