"""Figures: one style for all pictures, readable in grey: lines differ by dashes and markers, not by colour alone."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranking.stores.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart, from dark to light.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
# Larger numbers are darker, in print as well.
SHADES = "Greys"


def new_figure(width: float = 6.4, height: float = 4.2) -> "Figure":
    """An empty figure in the common style.

    Args:
        width: Inches; 6.4 is about the width of a page's text, 3.3 of a column.
        height: Inches.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9}):
        return Figure(figsize=(width, height), dpi=150, layout="constrained")


def line_style(place: int) -> Mapping[str, Any]:
    """The look of the line at a place: no two of the first 55 have the same marker and dashes.

    Args:
        place: 0 for the most important line.

    >>> line_style(0)["marker"], line_style(1)["marker"]
    ('o', 's')
    """
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": _DASHES[place % len(_DASHES)],
        "linewidth": 2.0 if place == 0 else 1.2,
        "markersize": 4,
    }


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure in the format that its name ends with, completely or not at all.

    Args:
        figure: The figure.
        path: A name that ends in `.png` or `.pdf`.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    content, kind = io.BytesIO(), path.suffix.removeprefix(".")
    # Type 42 fonts, since journals refuse type 3; no date, so that equal figures are equal files.
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(content, format=kind, metadata={"CreationDate": None} if kind == "pdf" else {})
    write_file(path, content.getvalue())
