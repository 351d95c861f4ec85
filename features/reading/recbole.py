"""Atomic files: reads RecBole's format of recommendation data sets, `*.item` and `*.inter`, with any columns."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from features.reading.fields import LineError
from features.reading.lines import TextFile, number
from registry import ConfigError

_GENRES = ("genre", "class")
_TEXT = ("token", "token_seq")


@dataclass(frozen=True)
class AtomicItem:
    """An item.

    Args:
        id: The id of the item.
        title: The title of the item in histories.
        text: All columns of words, as one text.
    """

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class AtomicTable:
    """One file, separated by tabs or commas; its first line names the columns with their types, as `item_id:token`."""

    file: TextFile

    @cached_property
    def separator(self) -> str:
        """A tab if the first line has one, else a comma."""
        return "\t" if "\t" in self.file.first_line() else ","

    @cached_property
    def types(self) -> dict[str, str]:
        """The type of each column; token if the file gives none."""
        names = (name.strip().partition(":") for name in self.file.first_line().split(self.separator))
        return {name: kind or "token" for name, _, kind in names}

    def rows(self, columns: list[str]) -> Iterator[tuple[str, ...]]:
        """Yield these columns of each line."""
        return self.file.rows(self.separator, columns, lambda *values: values)


@dataclass(frozen=True)
class AtomicFiles:
    """The items and interactions of a folder.

    User ids are in `user_id`. Item ids are in `item_id`, or else in the first column that both files have. A title is
    in `title`, `name`, or a column whose name ends so. Without ratings all interactions count the same; without
    `timestamp` the file has them in the order of time.

    Args:
        items: The `.item` file.
        interactions: The `.inter` file, or its parts.
    """

    items: AtomicTable
    interactions: tuple[AtomicTable, ...]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The hashes of the files."""
        return {"files": [table.file.fingerprint for table in (self.items, *self.interactions)]}

    @cached_property
    def item_column(self) -> str:
        """The name of the column with an item's id.

        Raises:
            ConfigError: If the files have no column in common.
        """
        shared = [name for name in self.items.types if all(name in table.types for table in self.interactions)]
        if not shared:
            file = self.interactions[0].file
            problem = f"has no column of {self.items.file.name}, so no interaction names an item."
            raise ConfigError(file.place, problem, known=list(self.interactions[0].types))
        return "item_id" if "item_id" in shared else shared[0]

    def films(self) -> Iterator[AtomicItem]:
        """Yield every item, with its title and text."""
        title, names = self._title, self._named
        columns = [self.item_column, *filter(None, [title]), *names]
        for id, *values in self.items.rows(columns):
            given = dict(zip(columns[1:], (value.strip() for value in values), strict=True))
            name = given.pop(title, "") if title else ""
            yield _item(id, name, given)

    def ratings(self, films: Container[str]) -> Iterator[tuple[str, str, float | None, float]]:
        """Yield user, item, rating and time of each interaction; the rating is None if the column is missing.

        Raises:
            ConfigError: If a line names an unknown item, or a field is not a number.
        """
        for table in self.interactions:
            if cut := next((name for name in table.types if name.endswith("_list")), None):
                problem = f"is already split into sequences: its column {cut!r} has the history of each line."
                cure = "use the original file, with one interaction per line"
                raise ConfigError(table.file.place, problem, cure=cure)
            user = self._user(table)
            optional = [name for name in ("rating", "timestamp") if name in table.types]

            def parse(
                user: str, item: str, *numbers: str, names: list[str] = optional
            ) -> tuple[str, str, float | None, float]:
                if item not in films:
                    raise LineError("item", f"{item!r} is not in {self.items.file.name}")
                values = {name: number(name, value) for name, value in zip(names, numbers, strict=True)}
                return user, item, values.get("rating"), values.get("timestamp", 0.0)

            yield from table.file.rows(table.separator, [user, self.item_column, *optional], parse)

    def _user(self, table: AtomicTable) -> str:
        others = [name for name, kind in table.types.items() if kind == "token" and name != self.item_column]
        if not others:
            raise ConfigError(table.file.place, "has no column 'user_id'.", given="user_id", known=list(table.types))
        return "user_id" if "user_id" in others else others[0]

    @property
    def _title(self) -> str | None:
        for ending in ("title", "name"):
            named = [name for name in self.items.types if name.endswith(ending)]
            if named:
                return ending if ending in named else named[0]
        return None

    @property
    def _named(self) -> list[str]:
        """The columns of words other than title and ids, and the year."""
        kinds = self.items.types.items()
        words = [name for name, kind in kinds if kind in _TEXT and not name.endswith("_id")]
        return [name for name in words if name not in (self.item_column, self._title)]


def find_atomic_files(folder: Path) -> AtomicFiles | None:
    """The atomic files in a folder; None if there are none.

    Raises:
        ConfigError: If the folder has files of several data sets.
    """
    items, interactions = sorted(folder.glob("*.item")), sorted(folder.glob("*.inter"), key=_part)
    # The published ml-100k has a u.item, too.
    if not items or not interactions:
        return None
    if len(items) > 1 or len({file.name.partition(".")[0] for file in interactions}) > 1:
        names = ", ".join(file.name for file in (*items, *interactions))
        cure = "put each data set into its own folder: one *.item, and the *.inter with the same name"
        raise ConfigError(str(folder), f"has the files of several data sets: {names}.", cure=cure)
    return AtomicFiles(AtomicTable(TextFile(items[0])), tuple(AtomicTable(TextFile(file)) for file in interactions))


def _part(file: Path) -> tuple[int, str]:
    """The sort key of a file: training first, because without timestamps the files are in the order of time."""
    parts = [place for place, word in enumerate(("train", "val", "test")) if f".{word}" in file.name]
    return (parts[0] if parts else 0), file.name


def _item(id: str, title: str, words: dict[str, str]) -> AtomicItem:
    year = words.pop("release_year", "")
    genres = next((", ".join(words.pop(name).split()) for name in _GENRES if name in words), "")
    named = [f"{name.replace('_', ' ').capitalize()}: {value}" for name, value in words.items() if value]
    name = f"{title} ({year})" if title and year.isdigit() else title
    parts = [part for part in (name, genres, *named) if part]
    return AtomicItem(id, name or (parts[0] if parts else f"item {id}"), ". ".join(parts) or f"item {id}")
