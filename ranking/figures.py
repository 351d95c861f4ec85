"""Figures: one style for all pictures, readable in grey: lines differ by dashes and markers, not by colour alone."""

import io
import re
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
_SVG_METADATA = ("Creator", "Date", "Format", "Type")
# What has no fill is black. The page sets size and font; ids of groups would be the same in every figure of a page.
_FOR_A_PAGE = {
    r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->": "",
    r'<svg[^>]*?(viewBox="[^"]*")[^>]*>': r'<svg style="fill: #000000" \1>',
    r'<g id="[^"]*"': "<g",
    r" font-family: [^;\"]*;": "",
    r"\s+": " ",
}


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


def as_svg(figure: "Figure", name: str) -> str:
    """A figure as an `<svg>` element of a web page, as wide as the page lets it be.

    Its texts are texts in the page's font. Its colours are CSS variables, which a page can set, for example for a dark
    screen: `--line-0` to `--line-6`, the first of which is also that of axes and texts, and `--paper`.

    Args:
        figure: The figure.
        name: Different for each figure of one page, since the parts of an SVG refer to one another by names.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    content = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(content, format="svg", transparent=True, metadata=dict.fromkeys(_SVG_METADATA))
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href").replace("#ffffff", "var(--paper, #ffffff)")
    for pattern, instead in _FOR_A_PAGE.items():
        svg = re.sub(pattern, instead, svg, flags=re.DOTALL)
    for place, colour in enumerate(_COLOURS):
        svg = re.sub(colour, f"var(--line-{place}, {colour})", svg, flags=re.IGNORECASE)
    return svg
