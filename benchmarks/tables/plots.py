"""Plots: the picture of a table, as PNG and PDF."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.tables.config import Column, Section, TableSpec
from benchmarks.tables.rendering import Rows
from benchmarks.tables.statistics import scorer_of
from benchmarks.tables.table import Key
from ranking.figures import SHADES, line_style, new_figure, write_figure

Sections = Sequence[tuple[Section, Rows]]
# A legend's entry in fonts of nine points: the line with its margins, and a letter.
_INCHES_OF_LINE, _INCHES_OF_LETTER = 0.65, 0.08


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
    """One panel per section and column: each row's metric against the number of candidates K."""
    columns = spec.config.columns
    figure, panels = _panels(len(sections), len(columns))
    for (section, _), axes_of_section in zip(sections, panels, strict=True):
        for column, axes in zip(columns, axes_of_section, strict=True):
            _draw_by_k(spec, section, column, findings, axes)
            axes.set(xlabel="K, responses to choose from", title=f"{section.name} {column.name}".strip())
    _share_legend(figure, panels)
    return figure


def _draw_by_k(
    spec: TableSpec, section: Section, column: Column, findings: Mapping[Key, Mapping[str, Any]], axes: Any
) -> None:
    scale = 100 if spec.config.percent else 1
    for place, row in enumerate(spec.config.rows):
        key = (section.name, spec.runs_of(row).name, spec.place(column))
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
    if axes.lines:
        ks = axes.lines[0].get_xdata()
        axes.set_xscale("log")
        axes.set_xticks(ks, labels=[str(k) for k in ks])
        axes.minorticks_off()


def _ranges(spec: TableSpec, sections: Sections, findings: Mapping[Key, Mapping[str, Any]]) -> Any:
    """The range of each row over the columns, a line for each column and a circle for each number of the paper."""
    figure = new_figure(6.4, 1.2 + 0.5 * len(spec.config.rows) * len(sections))
    axes, labels = figure.subplots(), []
    ours, theirs = [], []
    for section, rows in sections:
        for name, cells in rows.items():
            found = [cells[column.name] for column in spec.config.columns]
            values = [shown.value for shown in found if shown.value is not None]
            if not values:
                continue
            axes.plot([min(values), max(values)], [len(labels)] * 2, color="0.6", linewidth=3)
            ours = axes.plot(values, [len(labels)] * len(values), linestyle="", marker="|", color="0", markersize=9)
            papers = [shown.paper for shown in found if isinstance(shown.paper, float)]
            if papers:
                places = [len(labels) + 0.25] * len(papers)
                theirs = axes.plot(papers, places, "o", color="0.3", markersize=4, fillstyle="none")
            labels.append(f"{section.name} {name} ({max(values) - min(values):.3g})".strip())
    axes.set_yticks(range(len(labels)), labels=labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set(xlabel=_label(spec, spec.config.metric))
    if theirs:
        figure.legend([ours[0], theirs[0]], ["ours", "the paper"], loc="outside lower center", ncols=2)
    return figure


def _heat_map(spec: TableSpec, sections: Sections, findings: Mapping[Key, Mapping[str, Any]]) -> Any:
    """Rows against columns, one panel per section; darker is better within a column, since columns differ."""
    names, num_rows = [column.name for column in spec.config.columns], len(spec.config.rows)
    width = 1.5 + 0.6 * len(names) + _INCHES_OF_LETTER * max(len(row.name) for row in spec.config.rows)
    height = 0.9 + 0.35 * num_rows + _INCHES_OF_LETTER * max(map(len, names))
    figure = new_figure(width, height * len(sections))
    for (section, rows), [axes] in zip(sections, figure.subplots(len(sections), 1, squeeze=False), strict=True):
        axes.set(title=section.name)
        _draw_heat_map(spec, rows, names, figure, axes)
    return figure


def _draw_heat_map(spec: TableSpec, rows: Rows, names: Sequence[str], figure: Any, axes: Any) -> None:
    values = [[cells[name].value for name in names] for cells in rows.values()]
    best = [max((value for value in column if value is not None), default=None) for column in zip(*values, strict=True)]
    gaps = [
        [float("nan") if value is None or top is None else value - top for value, top in zip(row, best, strict=True)]
        for row in values
    ]
    lowest = min((gap for row in gaps for gap in row if gap == gap), default=0.0)
    image = axes.imshow(gaps, aspect="auto", cmap=SHADES, vmin=lowest or -1, vmax=0)
    axes.set_xticks(range(len(names)), labels=names, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), labels=list(rows))
    axes.set(xlabel="tested on", ylabel="trained on")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value is not None:
                dark = gaps[y][x] > (lowest or -1) / 2
                text = f"{value:.1f}" if spec.config.percent else f"{value:.3f}"
                axes.text(x, y, text, ha="center", va="center", fontsize=7, color="w" if dark else "k")
    figure.colorbar(image, label="below the column's best")


def _curves(spec: TableSpec, sections: Sections, findings: Mapping[Key, Mapping[str, Any]]) -> Any:
    """Each row over the columns whose names end in a number: one panel per section and kind of name: `depth 0.1`."""
    kinds: dict[str, list[tuple[float, str]]] = {}
    for column in spec.config.columns:
        kind, _, number = column.name.rpartition(" ")
        kinds.setdefault(kind, []).append((float(number), column.name))
    figure, panels = _panels(len(sections), len(kinds))
    for (section, rows), axes_of_section in zip(sections, panels, strict=True):
        for (kind, points), axes in zip(kinds.items(), axes_of_section, strict=True):
            for place, (name, cells) in enumerate(rows.items()):
                there = [(x, value) for x, column in points if (value := cells[column].value) is not None]
                axes.plot([x for x, _ in there], [y for _, y in there], label=name, **line_style(place))
            axes.set(xlabel=kind, ylabel=_label(spec, spec.config.metric), title=section.name)
            axes.set_xticks([x for x, _ in points])
    _share_legend(figure, panels)
    return figure


def _panels(num_rows: int, num_columns: int) -> tuple[Any, Any]:
    figure = new_figure(3.3 * num_columns, 0.6 + 2.6 * num_rows)
    return figure, figure.subplots(num_rows, num_columns, squeeze=False)


def _label(spec: TableSpec, metric: str) -> str:
    return f"{metric} (%)" if spec.config.percent else metric


def _share_legend(figure: Any, panels: Any) -> None:
    """One legend for all panels, below them, since it would hide lines in them; the figure is as wide as it needs."""
    lines = {line.get_label(): line for axes in panels.flat for line in axes.lines}
    if lines:
        width = _INCHES_OF_LINE + _INCHES_OF_LETTER * max(map(len, lines))
        figure.set_figwidth(max(figure.get_figwidth(), width))
        most = int(figure.get_figwidth() / width)
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=min(len(lines), 4, most))


_PLOTS: Mapping[str, Callable[..., Any]] = {"by_k": _by_k, "ranges": _ranges, "heat_map": _heat_map, "curves": _curves}
