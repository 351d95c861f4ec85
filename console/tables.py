"""Tables: printed in full at any width; no number is ever cut."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text


def new_table(*headers: str, title: str | None = None) -> Table:
    """A table to fill with rows; its first column names them, the others hold numbers.

    Args:
        headers: Of the columns.
        title: Printed above it.
    """
    whole = None if title is None else Text(title)
    table = Table(title=whole, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for place, header in enumerate(headers):
        table.add_column(escape(header), justify="right" if place else "left", no_wrap=place > 0, overflow="fold")
    return table


def print_table(console: Console, table: Table) -> None:
    """Print a table as it is where it fits, else some columns after the others, else line by line.

    Args:
        console: Where to.
        table: Its first column names the rows, and stands before each part.
    """
    if table.title is not None:
        console.print(_text(table.title), style="italic", soft_wrap=True)
    parts = _parts(console, table)
    for place, part in enumerate(parts or ()):
        if place:
            console.print()
        console.print(part)
    if parts is None:
        for line in _lines(table):
            console.print(line, soft_wrap=True)


def _parts(console: Console, table: Table) -> list[Table] | None:
    """The fewest parts that fit; None where a single column does not."""
    if _fits(console, whole := _with(table, range(len(table.columns)))):
        return [whole]
    parts, first, end = [], 1, 1
    while first < len(table.columns):
        part = None
        while end < len(table.columns) and _fits(console, more := _with(table, [0, *range(first, end + 1)])):
            part, end = more, end + 1
        if part is None:
            return None
        parts.append(part)
        first = end
    return parts or None


def _fits(console: Console, table: Table) -> bool:
    """Whether at most the names of its rows have to be wrapped, between words."""
    unlimited = console.options.update(width=1_000_000)
    whole, names = (console.measure(each, options=unlimited) for each in (table, _with(table, [0])))
    return whole.maximum - names.maximum + names.minimum <= console.width


def _with(table: Table, places: Sequence[int]) -> Table:
    part = copy(table)
    part.title, part.columns = None, [table.columns[place] for place in places]
    return part


def _lines(table: Table) -> Iterator[Text]:
    """Each row's name, and below it each cell with its column's name."""
    headers = [_text(column.header) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        yield _text(row[0])
        for header, cell in zip(headers[1:], row[1:], strict=True):
            yield Text.assemble("  ", header, ": ", " ".join(_text(cell).plain.split()))


def _text(cell: RenderableType | Any) -> Text:
    return cell.copy() if isinstance(cell, Text) else Text.from_markup(str(cell))
