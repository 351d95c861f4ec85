"""Figures of a page: curves over steps and over the number of responses, histograms of scores, and values in rows."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from ranking.figures import line_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Points of one curve; longer ones are shown as means of neighbours.
_MOST_POINTS = 300
_MOST_MARKERS = 30
_SMALL = (4.5, 3.4)
# Inches of one row, and how far apart the values of one row are, as a share of it.
_ROW, _APART = 0.34, 0.22

Value = float | Mapping[str, float | None] | None
"""A number, a mean with its interval, or nothing."""


def curve_figure(
    curves: Mapping[str, Mapping[int, float]], label: str, across: Mapping[str, float] = MappingProxyType({})
) -> "Figure":
    """Curves over the steps of training.

    Args:
        curves: Values by step, by the name of the curve, the most important one first.
        label: What the values are.
        across: Values that do not change, by name, as lines across.
    """
    figure = new_figure(*_SMALL)
    axes = figure.subplots()
    for place, (name, curve) in enumerate(curves.items()):
        steps, values = thinned([*curve.items()])
        look = {**line_style(place), **({"marker": None} if len(steps) > _MOST_MARKERS else {})}
        axes.plot(steps, values, label=name, **look)
    for place, (name, value) in enumerate(across.items(), start=len(curves)):
        axes.axhline(value, label=name, **{**line_style(place), "marker": None})
    axes.set(xlabel="step", ylabel=label)
    if len(curves) + len(across) > 1:
        figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return figure


def by_k_figure(found: Mapping[str, Any], size: tuple[float, float] = (6.4, 4.2)) -> "Figure":
    """A metric of every scorer against the number of responses to choose from, with the ranker's interval.

    Args:
        found: `by_k` of `metrics.json`.
        size: Width and height in inches.
    """
    figure, ks = new_figure(*size), found["ks"]
    axes = figure.subplots()
    for place, (scorer, means) in enumerate(found["scorers"].items()):
        axes.plot(ks, _values(means, "mean"), label=scorer, **line_style(place))
        if place == 0:
            axes.fill_between(ks, _values(means, "low"), _values(means, "high"), alpha=0.2, color="#000000")
    axes.set(xscale="log", xlabel="responses to choose from", ylabel=found["metric"], title="test")
    axes.set_xticks(ks, labels=[str(k) for k in ks])
    axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return figure


def histogram_figure(scores: Mapping[str, Sequence[float]]) -> "Figure":
    """How often right and wrong candidates have each score, as shares of their number."""
    figure = new_figure(*_SMALL)
    axes = figure.subplots()
    for place, name in enumerate(("wrong", "right")):
        look = line_style(place)
        shares = [count / max(1, sum(scores[name])) for count in scores[name]]
        axes.stairs(shares, scores["edges"], label=name, color=look["color"], fill=True, alpha=0.2)
        axes.stairs(shares, scores["edges"], color=look["color"], linestyle=look["linestyle"], linewidth=1.5)
    axes.set(xlabel="score", ylabel="share of candidates")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def rows_figure(
    rows: Mapping[str, Mapping[str, Value]], label: str, *, kind: Literal["means", "changes", "amounts"]
) -> "Figure":
    """Values in rows, one below the other, with their intervals.

    Args:
        rows: By the name of the row, its values by the name of their series, the most important series first.
        label: What the values are.
        kind: `changes` have a line at zero, `amounts` a line each that starts there.
    """
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure = new_figure(_SMALL[0], 0.9 + _ROW * len(rows))
    axes = figure.subplots()
    for number, name in enumerate(series):
        look = line_style(number)
        means = [_mean(row.get(name)) for row in rows.values()]
        places = [row + _APART * (number - (len(series) - 1) / 2) for row in range(len(rows))]
        axes.plot(means, places, label=name, **{**look, "linestyle": "none"})
        for place, row in zip(places, rows.values(), strict=True):
            low, high = _ends(row.get(name), from_zero=kind == "amounts")
            axes.plot([low, high], [place, place], color=look["color"], linestyle="-", linewidth=1.2)
    if kind == "changes":
        axes.axvline(0, color="#000000", linewidth=0.8, linestyle=":")
    if kind == "amounts":
        axes.set_xlim(left=0)
    axes.set_yticks(range(len(rows)), labels=list(rows))
    axes.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5))
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return figure


def thinned(curve: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Steps and values of a curve; of a long one, the means of neighbours.

    >>> thinned([(1, 0.5), (2, 0.25)])
    ([1.0, 2.0], [0.5, 0.25])
    """
    size = -(-len(curve) // _MOST_POINTS)
    parts = [curve[start : start + size] for start in range(0, len(curve), size)]
    steps, values = ([sum(point[axis] for point in part) / len(part) for part in parts] for axis in (0, 1))
    return steps, values


def _values(means: Sequence[Mapping[str, float | None]], which: str) -> list[float]:
    return [float("nan") if (value := mean[which]) is None else value for mean in means]


def _mean(value: Value) -> float:
    found = value["mean"] if isinstance(value, Mapping) else value
    return float("nan") if found is None else found


def _ends(value: Value, *, from_zero: bool) -> tuple[float, float]:
    """Where the line of a value begins and ends."""
    if from_zero:
        return 0.0, _mean(value)
    ends = (value["low"], value["high"]) if isinstance(value, Mapping) else (None, None)
    low, high = (float("nan") if end is None else end for end in ends)
    return low, high
