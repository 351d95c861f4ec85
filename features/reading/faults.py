"""Faults: collects mistakes in the lines of a file; each mistake is reported once, with all its lines."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from features.reading.fields import LineError
from registry import ConfigError

R = TypeVar("R")
T = TypeVar("T")

_MOST_KINDS = 20
_MOST_PLACES = 3
_CURE = "correct or remove what is named above"


@dataclass
class _Kind:
    first: LineError
    places: list[int]
    texts: list[str]
    count: int = 0


@dataclass
class Faults:
    """Collects the bad lines of one file.

    Args:
        path: The place at the start of the error.
        unit: The word for what is counted: line, row or item.
        file: The file name at the start of each place; empty if places start with the unit.
    """

    path: str
    unit: str = "line"
    file: str = ""
    _kinds: dict[str, _Kind] = field(default_factory=dict)

    def parsed(self, rows: Iterable[tuple[int, R | LineError]], parse: Callable[[int, R], T]) -> Iterator[T]:
        """Yield the result of `parse` for each row; skip bad rows, and report them at the end.

        Args:
            rows: Each row with its number; a row that could not be split into fields is a LineError.
            parse: Called with a number and its row; raises LineError for a bad row.

        Raises:
            ConfigError: After the last row: all mistakes, each with its rows.
        """
        for number, row in rows:
            try:
                if isinstance(row, LineError):
                    raise row
                value = parse(number, row)
            except LineError as error:
                self.add(number, error)
                continue
            yield value
        self.raise_if_any()

    def add(self, number: int, error: LineError) -> None:
        """Record a bad line.

        Raises:
            ConfigError: If there are too many different mistakes to continue.
        """
        kind = self._kinds.setdefault(_alike(str(error)), _Kind(error, [], []))
        kind.count += 1
        if len(kind.places) < _MOST_PLACES:
            kind.places.append(number)
            kind.texts.append(str(error))
        if len(self._kinds) == _MOST_KINDS:
            raise self._error(", and maybe more,")

    def raise_if_any(self) -> None:
        """Raise a `ConfigError` that names all mistakes, if there are any."""
        if self._kinds:
            raise self._error("")

    def _error(self, more: str) -> ConfigError:
        total = sum(kind.count for kind in self._kinds.values())
        count = f"one {self.unit}{more} cannot" if total == 1 else f"{total:,} {self.unit}s{more} cannot"
        listing = "".join(f"\n  {line}" for kind in self._kinds.values() for line in self._lines(kind))
        cures = list(dict.fromkeys(kind.first.cure for kind in self._kinds.values() if kind.first.cure))
        return ConfigError(self.path, f"{count} be read:{listing}", cure="; ".join(cures) or _CURE)

    def _lines(self, kind: _Kind) -> list[str]:
        same = len(set(kind.texts)) == 1
        if kind.count == 1 or (kind.count <= _MOST_PLACES and not same):
            return [f"{self._place([at])}: {text}" for at, text in zip(kind.places, kind.texts, strict=True)]
        hidden = kind.count - len(kind.places)
        first = "" if same else ", the first of them"
        return [f"{self._place(kind.places, hidden)}{first}: {kind.texts[0]}"]

    def _place(self, numbers: list[int], hidden: int = 0) -> str:
        shown = [f"{number}" for number in numbers] + ([f"{hidden:,} more"] if hidden else [])
        listed = ", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else shown[0]
        return f"{self.file}{', ' if self.file else ''}{self.unit}{'s' * (len(shown) > 1)} {listed}"


def _alike(problem: str) -> str:
    """A key that is equal for problems that differ only in found values and numbers."""
    problem = re.sub(r"found .*?(?=, expected|$)", "found", problem)
    return re.sub(r"\d+|0x[0-9a-f]+|'[^']*'|\"[^\"]*\"", "#", problem)
