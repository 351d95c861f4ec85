"""Pool sources: candidates and queries of one large candidate set, before any text is embedded."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from features.texts.groups import Source, Split, TextGroup, checked
from features.texts.own_files import OwnFile, files_of
from registry import ConfigError


@dataclass(frozen=True)
class PoolText:
    """One candidate of a pool.

    Args:
        id: The id of the candidate, unique in the pool.
        text: The text that rankers read.
        feature: A vector computed elsewhere, to use instead of the encoder's.
        origin: The place in the source, such as `collection.tsv, line 7`, for error messages.
    """

    id: str
    text: str
    feature: list[float] | None = None
    origin: str = ""


@dataclass(frozen=True)
class PoolQuery:
    """One query that ranks a pool.

    Args:
        id: The id of the query, unique in its source.
        text: The text that encoders and rankers read.
        relevant: Ids of relevant candidates with their grades, above 0; None if no candidate was judged.
        split: The split, if the source gives one.
        history: Ids of candidates that the query's user has seen, oldest first.
        candidates: Ids of the candidates that the query ranks; None for the whole pool.
        feature: A vector computed elsewhere, to use instead of the encoder's.
        user: Whose query it is, if several queries may be of the same user; None for a user of its own.
        origin: The place in the source, for error messages.
    """

    id: str
    text: str
    relevant: Mapping[str, float] | None
    split: Split | None = None
    history: Sequence[str] = ()
    candidates: Sequence[str] | None = None
    feature: list[float] | None = None
    user: str | None = None
    origin: str = ""


@runtime_checkable
class PoolSource(Protocol):
    """A source of a pool's candidates and queries."""

    def fingerprint(self) -> dict[str, Any]:
        """Values that the pool depends on, such as a file's hash: equal fingerprints mean equal pools.

        If it has `min_label`, candidates with lower grades are not relevant in metrics without grades.
        """
        ...

    def candidates(self) -> Iterator[PoolText]:
        """Yield every candidate, in the same order at each call; there may be tens of millions.

        Raises:
            ConfigError: If some data is wrong; names every place.
        """
        ...

    def queries(self) -> Iterator[PoolQuery]:
        """Yield every query, in the same order at each call.

        Raises:
            ConfigError: If some data is wrong; names every place.
        """
        ...


@runtime_checkable
class Noting(Protocol):
    """A source that counts what it leaves out or has to assume."""

    def notes(self) -> list[str]:
        """One line for each kind of such data."""
        ...


def pool_source(source: PoolSource | Source, *, own_lists: bool = False) -> PoolSource:
    """Return a pool source unchanged; turn the candidates of a source of groups into one pool.

    Args:
        source: A source of either kind.
        own_lists: Whether the query of a group ranks only the candidates of its group.

    Raises:
        ConfigError: If `own_lists` is set for a pool source.
    """
    if not isinstance(source, PoolSource):
        return _GroupPool(source, own_lists)
    if own_lists:
        cure = "leave own_lists out: the source itself gives the candidates that a query ranks"
        raise ConfigError("features.own_lists", "the source has no groups.", cure=cure)
    return source


class _GroupPool:
    """The candidates of a source's groups as a pool; each text occurs once, with its first id."""

    def __init__(self, source: Source, own_lists: bool) -> None:
        self.source, self.own_lists = source, own_lists

    @property
    def own_files(self) -> Sequence[OwnFile]:
        return files_of(self.source)

    def fingerprint(self) -> dict[str, Any]:
        fingerprint = self.source.fingerprint()
        return {**fingerprint, "own_lists": True} if self.own_lists else fingerprint

    def candidates(self) -> Iterator[PoolText]:
        ids = _Ids()
        for group in checked(self.source.groups()):
            for candidate in group.candidates:
                if ids.add(group, candidate.id, candidate.text):
                    yield PoolText(candidate.id, candidate.text, candidate.feature, group.origin)

    def queries(self) -> Iterator[PoolQuery]:
        ids = _Ids()
        for group in checked(self.source.groups()):
            for candidate in group.candidates:
                ids.add(group, candidate.id, candidate.text)
            labels = [(ids.first(each.id), each.label) for each in group.candidates]
            yield PoolQuery(
                group.query_id,
                group.query,
                largest_labels((id, label) for id, label in labels if label is not None and label > 0),
                group.split,
                candidates=list(dict.fromkeys(id for id, _ in labels)) if self.own_lists else None,
                feature=group.feature,
                origin=group.origin,
            )


def largest_labels(labels: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The highest label of each id, because two candidates may have the same text."""
    largest: dict[str, float] = {}
    for id, label in labels:
        largest[id] = max(label, largest.get(id, label))
    return largest


class _Ids:
    """The text of each id, and the first id of each text."""

    def __init__(self) -> None:
        self._text_of: dict[str, bytes] = {}
        self._first: dict[bytes, str] = {}

    def add(self, group: TextGroup, id: str, text: str) -> bool:
        """Add a candidate; return whether its text is new.

        Raises:
            ConfigError: If the id already stands for another text.
        """
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if self._text_of.setdefault(id, digest) != digest:
            cure = "give each text its own id, because all candidates form one pool"
            problem = f"the candidate id {id!r} stands for two texts in the pool."
            raise ConfigError(group.origin or group.query_id, problem, cure=cure)
        known = digest in self._first
        self._first.setdefault(digest, id)
        return not known

    def first(self, id: str) -> str:
        """The id in the pool of the text that an id stands for."""
        return self._first[self._text_of[id]]
