"""Rendering: templates to one HTML file in which every text is escaped and from which no request can leave."""

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from console.decimals import decimal

Step = str | int | tuple[str | int, ...]
Picture = Mapping[str, str]
"""A figure: its `svg`, its `alt` text and its `caption`."""

_TEMPLATES = Path(__file__).parent / "templates"
# Letters that make text look like other text (overrides and embeddings of direction), or that HTML does not allow.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def render(template: str, numbers: "Numbers", **context: Any) -> bytes:
    """Render a page.

    Args:
        template: The name of a file in `templates/`.
        numbers: What `number` and `bounds` of the template read.
        context: Other values for the template.
    """
    style, script = Markup(stylesheet()), Markup(_content("page.js"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    fixed = {"style": style, "script": script, "script_hash": allowed}
    functions = {"number": numbers.number, "bounds": numbers.bounds, "value_at": numbers.value}
    page = _environment().get_template(template)
    return page.render(**fixed, **functions, **context).encode()


def stylesheet() -> str:
    """The colours and forms that all pages of the project share."""
    return _content("page.css")


class Numbers:
    """Numbers of json documents as HTML, each with its exact value and its place in the document.

    Args:
        documents: By name, such as `metrics.json`.
    """

    def __init__(self, documents: Mapping[str, Any]) -> None:
        self._documents = documents

    def number(self, *path: Step, places: int = 3, signed: bool = False) -> Markup:
        """One number as `<data>`; a dash where it is unknown.

        Args:
            path: The document's name, then keys and places in it; several of them can come as one tuple.
            places: Decimals.
            signed: Whether a number above zero gets a plus.
        """
        keys = _flat(path)
        value = self._at(keys)
        if not isinstance(value, int | float) or not math.isfinite(value):
            return Markup('<span class="unknown">unknown</span>')
        whole = isinstance(value, int) and not signed
        text = f"{value:,}" if whole else decimal(value, places, signed=signed)
        place = "/".join(str(key).replace("~", "~0").replace("/", "~1") for key in keys)
        return Markup('<data value="{}" data-at="{}">{}</data>').format(repr(value), place, text.replace("-", "−"))

    def bounds(self, *path: Step, places: int = 3, signed: bool = False) -> Markup:
        """The interval of a mean, in brackets; empty where there is none.

        Args:
            path: Of a mapping with `low` and `high`.
            places: Decimals.
            signed: Whether numbers above zero get a plus.
        """
        found = self._at(_flat(path))
        if any(found.get(end) is None for end in ("low", "high")):
            return Markup("")
        low, high = (self.number(*path, end, places=places, signed=signed) for end in ("low", "high"))
        return Markup('<span class="bounds">{} to {}</span>').format(low, high)

    def value(self, *path: Step) -> Any:
        """What stands at a place."""
        return self._at(_flat(path))

    def _at(self, keys: Sequence[str | int]) -> Any:
        found: Any = self._documents
        for key in keys:
            found = found[key]
        return found


def visible(text: str) -> Markup:
    """A text, escaped, in which characters that hide or reorder others are shown by their numbers.

    >>> str(visible("a<b\\u202ec"))
    'a&lt;b<span class="hidden-letter">U+202E</span>c'
    """
    text, shown, last = text.replace("\r\n", "\n"), Markup(""), 0
    for found in _INVISIBLE.finditer(text):
        shown += escape(text[last : found.start()])
        shown += Markup('<span class="hidden-letter">U+{}</span>').format(f"{ord(found[0]):04X}")
        last = found.end()
    return shown + escape(text[last:])


def picture(svg: str, alt: str, caption: str) -> Picture:
    """A figure for the templates.

    Args:
        svg: An `<svg>` element.
        alt: What it shows, for readers who do not see it.
        caption: What stands below it.
    """
    return {"svg": Markup(svg), "alt": alt, "caption": caption}


def _flat(path: Iterable[Step]) -> list[str | int]:
    return [key for step in path for key in (step if isinstance(step, tuple) else (step,))]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment


@cache
def _content(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
