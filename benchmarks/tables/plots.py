"""Plots: the picture of a table, as PNG and PDF."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.tables.config import Section, TableSpec
from benchmarks.tables.rendering import Rows
from benchmarks.tables.statistics import scorer_of
from benchmarks.tables.table import Key
from ranking.figures import SHADES, line_style, new_figure, write_figure

Sections = Sequence[tuple[Section, Rows]]


def draw(spec: TableSpec, sections: Sections, findings: Mapping[Key, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draw the picture that the yaml asks for; return its files, none if there is nothing to draw."""
    if spec.config.plot is None or not findings:
        return []
    figure = _PLOTS[spec.config.plot](spec, sections, findings)
    files = [folder / f"{spec.name}{suffix}" for suffix in (".png", ".pdf")]
    for file in files:
        write_figure(figure, file)
    return files


def _by_k(spec: TableSpec, sections: Sections, findings: Mapping[Key, Mapping[str, Any]]) -> Any:
    """One panel per column: each row's metric against the number of candidates K."""
    columns = spec.config.columns
    figure = new_figure(3.3 * len(columns), 3.2)
    panels, scale = figure.subplots(1, len(columns), squeeze=False)[0], 100 if spec.config.percent else 1
    for axes, column in zip(panels, columns, strict=True):
        for place, row in enumerate(spec.config.rows):
            key = (sections[0][0].name, spec.runs_of(row).name, spec.place(column))
            found = [findings[*key, seed] for seed in spec.config.seeds if (*key, seed) in findings]
            curves = [cell["by_k"] for cell in found if cell.get("by_k")]
            scorer = scorer_of(row, column, found[0]) if found else ""
            curves = [curve for curve in curves if scorer in curve["scorers"]]
            if not curves:
                continue
            ks = curves[0]["ks"]
            values = [[point["mean"] for point in curve["scorers"][scorer]] for curve in curves]
            means = [math.nan if None in each else scale * fmean(each) for each in zip(*values, strict=True)]
            axes.plot(ks, means, label=row.name, **line_style(place))
            axes.set(ylabel=_label(spec, curves[0]["metric"]))
        axes.set(xlabel="K, responses to choose from", title=column.name)
        if axes.lines:
            ks = axes.lines[0].get_xdata()
            axes.set_xscale("log")
            axes.set_xticks(ks, labels=[str(k) for k in ks])
            axes.minorticks_off()
    _share_legend(figure, panels)
    return figure


def _ranges(spec: TableSpec, sections: Sections, findings: Mapping[Key, Mapping[str, Any]]) -> Any:
    """The range of each row over the columns, with a line for each column; the paper's numbers are circles."""
    figure = new_figure(6.4, 1.2 + 0.5 * len(spec.config.rows) * len(sections))
    axes, labels = figure.subplots(), []
    for section, rows in sections:
        for name, cells in rows.items():
            found = [cells[column.name] for column in spec.config.columns]
            values = [shown.value for shown in found if shown.value is not None]
            if not values:
                continue
            axes.plot([min(values), max(values)], [len(labels)] * 2, color="0.6", linewidth=3)
            axes.plot(values, [len(labels)] * len(values), linestyle="", marker="|", color="0", markersize=9)
            papers = [shown.paper for shown in found if isinstance(shown.paper, float)]
            axes.plot(papers, [len(labels) + 0.25] * len(papers), "o", color="0.3", markersize=4, fillstyle="none")
            labels.append(f"{section.name} {name} ({max(values) - min(values):.3g})".strip())
    axes.set_yticks(range(len(labels)), labels=labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set(xlabel=_label(spec, spec.config.metric))
    return figure


def _heat_map(spec: TableSpec, sections: Sections, findings: Mapping[Key, Mapping[str, Any]]) -> Any:
    """Rows against columns; darker is better within a column, since columns differ in difficulty."""
    names, rows = [column.name for column in spec.config.columns], sections[0][1]
    values = [[cells[name].value for name in names] for cells in rows.values()]
    best = [max((value for value in column if value is not None), default=None) for column in zip(*values, strict=True)]
    gaps = [
        [float("nan") if value is None or top is None else value - top for value, top in zip(row, best, strict=True)]
        for row in values
    ]
    figure = new_figure(1.8 + 0.6 * len(names), 1.2 + 0.35 * len(rows))
    axes = figure.subplots()
    image = axes.imshow(gaps, aspect="auto", cmap=SHADES)
    axes.set_xticks(range(len(names)), labels=names, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), labels=list(rows))
    axes.set(xlabel="tested on", ylabel="trained on")
    lowest = min((gap for row in gaps for gap in row if gap == gap), default=0.0)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value is not None:
                dark = gaps[y][x] > lowest / 2
                text = f"{value:.1f}" if spec.config.percent else f"{value:.3f}"
                axes.text(x, y, text, ha="center", va="center", fontsize=7, color="w" if dark else "k")
    figure.colorbar(image, label="difference to the best of the column")
    return figure


def _curves(spec: TableSpec, sections: Sections, findings: Mapping[Key, Mapping[str, Any]]) -> Any:
    """Each row over the columns whose names end in a number, one panel for each kind of name: `depth 0.1`."""
    panels: dict[str, list[tuple[float, str]]] = {}
    for column in spec.config.columns:
        kind, _, number = column.name.rpartition(" ")
        panels.setdefault(kind, []).append((float(number), column.name))
    figure = new_figure(3.3 * len(panels), 3.2)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (kind, points) in zip(all_axes, panels.items(), strict=True):
        place = 0
        for section, rows in sections:
            for name, cells in rows.items():
                there = [(x, value) for x, column in points if (value := cells[column].value) is not None]
                label = f"{section.name} {name}".strip()
                axes.plot([x for x, _ in there], [y for _, y in there], label=label, **line_style(place))
                place += 1
        axes.set(xlabel=kind, ylabel=_label(spec, spec.config.metric))
        axes.set_xticks([x for x, _ in points])
    _share_legend(figure, all_axes)
    return figure


def _label(spec: TableSpec, metric: str) -> str:
    return f"{metric} (%)" if spec.config.percent else metric


def _share_legend(figure: Any, panels: Sequence[Any]) -> None:
    """One legend for all panels, below them, since it would hide lines in them."""
    lines = {line.get_label(): line for axes in panels for line in axes.lines}
    if lines:
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=min(len(lines), 4))


_PLOTS: Mapping[str, Callable[..., Any]] = {"by_k": _by_k, "ranges": _ranges, "heat_map": _heat_map, "curves": _curves}
