"""interactions: predict a user's next item, from your own file of users, items and times."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any, Literal

from features.reading.fields import LineError, Record, as_id, unexpected
from features.reading.lines import TextFile, number
from features.reading.records import Columns, RecordFile, find_files
from features.sources.recommendation.histories import Histories, Windows
from features.texts.own_files import OwnFile
from features.texts.pools import PoolQuery, PoolText
from registry import SOURCES, ConfigError
from registry.ranges import Count, FilePath, NonNegative, Text
from registry.schema import NUMBER

# Common names of columns, used if the options are null. RecBole writes a type behind a name, as in `user_id:token`.
_NAMES = {
    "user": ("user", "user_id", "userId", "uid", "reviewerID", "customer_id", "visitorid", "session_id", "sessionId"),
    "item": ("item", "item_id", "itemId", "iid", "movieId", "parent_asin", "asin", "product_id", "itemid", "id"),
    "time": ("time", "timestamp", "unixReviewTime", "datetime", "date", "created_at"),
    "rating": ("rating", "overall", "score", "stars"),
    "title": ("title", "name", "movie_title", "item_name", "product_title"),
}


@dataclass(frozen=True)
class InteractionColumns:
    """Names of the columns or fields of an interaction; null for the first common name that the file has.

    Args:
        user: Column of the user's id.
        item: Column of the item's id.
        time: Column of the time: a number, or a date as in `2023-05-01` or `2023-05-01T10:30:00`. Without such a
            column, the interactions are in the order of time.
        rating: Column of the rating, only read if there is a `min_rating`.
    """

    user: Text | None = None
    item: Text | None = None
    time: Text | None = None
    rating: Text | None = None


@dataclass(frozen=True)
class ItemColumns:
    """Names of the columns or fields of an item; null for the first common name that the file has.

    Args:
        item: Column of the item's id.
        title: Column of the title.
        more: Columns that follow the title in the text of a candidate, such as a brand or genres.
    """

    item: Text | None = None
    title: Text | None = None
    more: list[Text] = field(default_factory=list)


DEFAULT_WINDOWS = Windows(history=1000, min_history=1, max_windows=1)
DEFAULT_COLUMNS, DEFAULT_ITEM_COLUMNS = InteractionColumns(), ItemColumns()


@SOURCES.register("interactions")
class Interactions:
    """Reads any `.csv`, `.tsv`, `.parquet` or `.jsonl` file, or RecBole's `.inter` and `.item`; gzipped or not.

    RecBole's files are separated by tabs or commas; their first line shows which.

    The default windows give one training query per user, with the whole history: recommenders learn from every position
    of it. For rankers that read the history as text, set `windows: {history: 20}` or similar.

    Args:
        path: The files of interactions: one path or several; a path may be a pattern such as `part-*.csv`.
        items: The files of the items' titles; null if there are none: the text of an item is then its id.
        columns: The names of an interaction's fields.
        item_columns: The names of an item's fields.
        tsv: The columns of TSV files of interactions, in order; `header` if the first line names them.
        item_tsv: The columns of TSV files of items, in order; `header` if the first line names them.
        min_rating: The lowest rating to use; interactions with lower ratings are left out.
        min_interactions: Users and items with fewer are left out, repeatedly: 5 for a 5-core.
        pool: The candidates: only items that were `seen`, that is, are in interactions that are used, or also `all`
            others that the files of items have.
        windows: Which parts of a user's interactions become queries.
    """

    def __init__(
        self,
        path: FilePath | list[FilePath],
        items: FilePath | list[FilePath] | None = None,
        columns: InteractionColumns = DEFAULT_COLUMNS,
        item_columns: ItemColumns = DEFAULT_ITEM_COLUMNS,
        tsv: Columns = "header",
        item_tsv: Columns = "header",
        min_rating: NonNegative | None = None,
        min_interactions: Count = 1,
        pool: Literal["seen", "all"] = "seen",
        windows: Windows = DEFAULT_WINDOWS,
    ) -> None:
        if pool == "all" and items is None:
            raise ValueError("pool: all needs files of items: set `items`")
        self.paths, self.item_paths = path, items
        self.columns, self.item_columns = columns, item_columns
        self.tsv: Columns = tsv
        self.item_tsv: Columns = item_tsv
        self.min_rating, self.min_interactions = min_rating, min_interactions
        self.pool, self.windows = pool, windows
        self._num_low = 0

    def fingerprint(self) -> dict[str, Any]:
        """The name, size and hash of each file, and the options."""
        hashes = {
            kind: [TextFile(file.path).fingerprint for file in files]
            for kind, files in {"files": self._files, "items": self._item_files}.items()
        }
        columns = {"columns": asdict(self.columns), "item_columns": asdict(self.item_columns)}
        least = {"min_rating": self.min_rating, "min_interactions": self.min_interactions}
        options = {"tsv": self.tsv, "item_tsv": self.item_tsv, "pool": self.pool, "windows": self.windows.settings}
        return {"name": "interactions", **hashes, **columns, **least, **options}

    @property
    def own_files(self) -> list[OwnFile]:
        """The files, for a quick check before a run."""
        return [*self._files, *self._item_files]

    def candidates(self) -> Iterator[PoolText]:
        """Yield the items of the files of items, in their order, then those that are not in these files."""
        seen = dict.fromkeys(self._histories.items)
        for id, (_, text) in self._items.items():
            if self.pool == "all" or id in seen:
                yield PoolText(id, text, origin=f"item {id}")
        for id in seen:
            if id not in self._items:
                yield PoolText(id, id, origin=f"item {id}")

    def queries(self) -> Iterator[PoolQuery]:
        """Yield one query for each window of each user.

        Raises:
            ConfigError: If no user has enough interactions.
        """
        items = self._items
        yield from self._histories.queries(self.windows, lambda item: items[item][0] if item in items else item)

    def notes(self) -> list[str]:
        """What was left out of the files, and which items have no title."""
        histories, items = self._histories, self._items
        lines = [f"{self._num_low:,} interactions have a rating below {self.min_rating:g}."] if self._num_low else []
        lines += histories.notes(self.windows)
        without = sum(item not in items or items[item][0] == item for item in histories.items)
        if self._item_files and without:
            lines.append(f"{without:,} of {len(histories.items):,} items have no title: their text is their id.")
        return lines

    @cached_property
    def _files(self) -> list[RecordFile]:
        return [RecordFile(path, self.tsv) for path in find_files(self.paths, "features.source.path")]

    @cached_property
    def _item_files(self) -> list[RecordFile]:
        return [RecordFile(path, self.item_tsv) for path in find_files(self.item_paths, "features.source.items")]

    @cached_property
    def _histories(self) -> Histories:
        return Histories(self._interactions(), self.min_interactions)

    def _interactions(self) -> Iterator[tuple[str, str, float]]:
        self._num_low, place = 0, itertools.count()
        for file in self._files:
            if cut := next((name for name in map(_plain, file.fields) if name.endswith("_id_list")), None):
                problem = f"is already split into sequences: its column {cut!r} has the history of each line."
                cure = "use the original file, with one interaction per line"
                raise ConfigError(str(file.path), problem, cure=cure)
            user, item = (_column(file, self.columns, name, "columns") for name in ("user", "item"))
            time, first = (
                _column(each, self.columns, "time", "columns", optional=True) for each in (file, self._files[0])
            )
            if bool(time) != bool(first):
                has, lacks = ("a", "none") if time else ("no", "one")
                problem = (
                    f"has {has} column of the time, and {self._files[0].path} has {lacks}: the order is not known."
                )
                raise ConfigError(
                    str(file.path), problem, known=file.fields, cure="give times to all files, or to none"
                )
            rating = None if self.min_rating is None else _column(file, self.columns, "rating", "columns")
            names = [name for name in (user, item, time, rating) if name]
            for each in file.parsed(names, _InteractionReader(user, item, time, rating)):
                if rating is None or self.min_rating is None or each[3] >= self.min_rating:
                    yield each[0], each[1], each[2] if time else float(next(place))
                else:
                    self._num_low += 1

    @cached_property
    def _items(self) -> dict[str, tuple[str, str]]:
        """The title and the text of each item."""
        found: dict[str, tuple[str, str]] = {}
        for file in self._item_files:
            item, title = (_column(file, self.item_columns, name, "item_columns") for name in ("item", "title"))
            more = [_named(file, name, "item_columns.more") for name in self.item_columns.more]

            def parse(row: Record, place: str, item: str = item, title: str = title, more: Sequence[str] = more) -> Any:
                id = as_id(item, row.get(item))
                parts = [" ".join(_words(row.get(name)).split()) for name in (title, *more)]
                if id in found:
                    raise LineError(item, f"found {id!r} a second time, expected each item once")
                found[id] = parts[0] or id, ". ".join(filter(None, parts)) or id

            for _ in file.parsed([item, title, *more], parse):
                pass
        return found


@dataclass(frozen=True)
class _InteractionReader:
    user: str
    item: str
    time: str | None
    rating: str | None

    def __call__(self, row: Record, place: str) -> tuple[str, str, float, float]:
        rating = _number(self.rating, row.get(self.rating)) if self.rating else 0.0
        time = _time(self.time, row.get(self.time)) if self.time else 0.0
        return _id(self.user, row), _id(self.item, row), time, rating


def _id(column: str, row: Record) -> str:
    value = row.get(column)
    return as_id(column, value.strip() if isinstance(value, str) else value)


def _number(column: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(column, repr(value))
    if not isinstance(value, str):
        raise unexpected(column, value, "a number")
    return number(column, value)


def _time(column: str, value: Any) -> float:
    """A number, or a date and time as seconds; a time without a zone counts as UTC."""
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise unexpected(column, value, "a number or a date such as 2023-05-01T10:30:00") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return _number(column, value)


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, map(_words, value)))
    return "" if value is None else str(value)


def _plain(field: str) -> str:
    """The name of a column without the type that RecBole writes behind it."""
    return field.partition(":")[0].strip()


def _named(file: RecordFile, wanted: str, option: str) -> str:
    """The column with a name, with or without the type that RecBole writes behind it.

    Raises:
        ConfigError: If there is none.
    """
    fields = file.fields
    for each in fields:
        if wanted in (each, _plain(each)):
            return each
    cure = f"set features.source.{option} to one of its columns"
    raise ConfigError(str(file.path), f"has no column {wanted!r}.", given=wanted, known=fields, cure=cure)


def _column(
    file: RecordFile, columns: InteractionColumns | ItemColumns, name: str, option: str, *, optional: bool = False
) -> Any:
    """The column for a field: the one that the option names, else the first with a common name.

    Raises:
        ConfigError: If there is none, unless it is optional.
    """
    wanted = getattr(columns, name)
    if wanted is not None:
        return _named(file, wanted, f"{option}.{name}")
    plain = {_plain(field): field for field in file.fields}
    found = next((plain[each] for each in _NAMES[name] if each in plain), None)
    if found is None and not optional:
        cure = f"set features.source.{option}.{name} to one of its columns"
        if not any(file.fields):
            raise ConfigError(str(file.path), "is empty.", cure="set another file in features.source")
        if file.form == "tsv":
            cure = file.looks_like or f"a TSV file without a header needs features.source.tsv; {cure}"
        raise ConfigError(str(file.path), f"no column is known as that of the {name}.", known=file.fields, cure=cure)
    return found
