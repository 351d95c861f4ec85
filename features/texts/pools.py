"""Pool sources: what a source of one large candidate set yields, before anything is embedded."""

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
        id: Names it within the pool.
        text: What a ranker scores.
        feature: A vector made elsewhere, to be used in place of the encoder's.
        origin: Where it stands in its source, such as `collection.tsv, line 7`, for error messages.
    """

    id: str
    text: str
    feature: list[float] | None = None
    origin: str = ""


@dataclass(frozen=True)
class PoolQuery:
    """One query that ranks a pool.

    Args:
        id: Names it within its source.
        text: What is embedded and read.
        relevant: Ids of candidates, each with its grade, above 0; None where nobody judged any for this query.
        split: Where the source says which part it belongs to.
        history: Ids of what the query's user has seen, oldest first.
        candidates: Ids of what the query ranks; None for the whole pool.
        feature: A vector made elsewhere.
        origin: Where it stands in its source.
    """

    id: str
    text: str
    relevant: Mapping[str, float] | None
    split: Split | None = None
    history: Sequence[str] = ()
    candidates: Sequence[str] | None = None
    feature: list[float] | None = None
    origin: str = ""


@runtime_checkable
class PoolSource(Protocol):
    """Where a pool's candidates and queries come from."""

    def fingerprint(self) -> dict[str, Any]:
        """What they depend on, such as a file's hash: equal fingerprints mean equal pools.

        If it has a `min_label`, candidates of lower grades are not relevant where a metric knows no grades.
        """
        ...

    def candidates(self) -> Iterator[PoolText]:
        """Every candidate, in the same order each time; there may be tens of millions.

        Raises:
            ConfigError: If some of the data is not as it should be; every place is named.
        """
        ...

    def queries(self) -> Iterator[PoolQuery]:
        """Every query, in the same order each time.

        Raises:
            ConfigError: If some of the data is not as it should be; every place is named.
        """
        ...


def pool_source(source: PoolSource | Source, *, own_lists: bool = False) -> PoolSource:
    """A pool source as it is; the candidates of all text groups as one pool.

    Args:
        source: Of either kind.
        own_lists: Whether the query of a group ranks the group's candidates only.

    Raises:
        ConfigError: If a pool source is asked for own lists.
    """
    if not isinstance(source, PoolSource):
        return _GroupPool(source, own_lists)
    if own_lists:
        cure = "leave own_lists out: the source says itself what a query ranks"
        raise ConfigError("features.own_lists", "the source has no groups.", cure=cure)
    return source


class _GroupPool:
    """The candidates of a source's groups, each text once, under the first id it comes with."""

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
    """By id the highest label: two candidates may be one text."""
    largest: dict[str, float] = {}
    for id, label in labels:
        largest[id] = max(label, largest.get(id, label))
    return largest


class _Ids:
    """Which id stands for which text, and which id a text was first met under."""

    def __init__(self) -> None:
        self._text_of: dict[str, bytes] = {}
        self._first: dict[bytes, str] = {}

    def add(self, group: TextGroup, id: str, text: str) -> bool:
        """Note a candidate; whether its text is new.

        Raises:
            ConfigError: If the id means another text already.
        """
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if self._text_of.setdefault(id, digest) != digest:
            cure = "give each text its own id: all candidates are one pool"
            problem = f"the candidate id {id!r} stands for two texts; in a pool they would meet."
            raise ConfigError(group.origin or group.query_id, problem, cure=cure)
        known = digest in self._first
        self._first.setdefault(digest, id)
        return not known

    def first(self, id: str) -> str:
        """The id under which an id's text is in the pool."""
        return self._first[self._text_of[id]]
