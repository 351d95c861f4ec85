"""Faults: what is wrong with the lines of a file, each fault told once with the lines that have it."""

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
        path: What the error begins with.
        unit: What is counted: line, row or item.
        file: What the places begin with, if not with the unit.
    """

    path: str
    unit: str = "line"
    file: str = ""
    _kinds: dict[str, _Kind] = field(default_factory=dict)

    def parsed(self, rows: Iterable[tuple[int, R | LineError]], parse: Callable[[int, R], T]) -> Iterator[T]:
        """What `parse` makes of each row; bad ones are passed over, and reported at the end.

        Args:
            rows: Each with its number; in place of one that could not even be parted, what is wrong with it.
            parse: Of a number and its row; raises LineError for a bad one.

        Raises:
            ConfigError: After the last row: every fault, with the rows that have it.
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
        """Note a bad line.

        Raises:
            ConfigError: If so many different things are wrong that reading on is of no use.
        """
        kind = self._kinds.setdefault(_alike(str(error)), _Kind(error, [], []))
        kind.count += 1
        if len(kind.places) < _MOST_PLACES:
            kind.places.append(number)
            kind.texts.append(str(error))
        if len(self._kinds) == _MOST_KINDS:
            raise self._error(", and maybe more,")

    def raise_if_any(self) -> None:
        """Raise a `ConfigError` that names every fault, if there is one."""
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
    """The same for problems that differ by what was found and by numbers."""
    problem = re.sub(r"found .*?(?=, expected|$)", "found", problem)
    return re.sub(r"\d+|0x[0-9a-f]+|'[^']*'|\"[^\"]*\"", "#", problem)
