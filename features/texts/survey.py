"""Pool survey: reads and checks a whole pool source once, to find bad data before the work begins."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from features.building.chunks import chunks_of
from features.texts.equal_texts import EqualTexts, hash_texts
from features.texts.pools import PoolQuery, PoolSource, PoolText
from ranking.stores.id_index import hash_ids
from registry import ConfigError

Unknown = Literal["error", "drop"]
Duplicates = Literal["keep", "drop"]

_RUN = 16384
_MOST_SHOWN = 10


@dataclass(frozen=True)
class PoolSurvey:
    """Counts of a pool source.

    Args:
        num_candidates: Number of candidates.
        num_queries: Number of queries.
        feature_dim: Size of the vectors that came with the source, 0 if it has none.
        without_relevant: Number of queries without a relevant candidate in the pool.
        missing: Number of judged candidates that are not in the pool.
        left_out: Number of other ids in queries that are not in the pool.
        equal: The candidates that have the same text as an earlier one.
    """

    num_candidates: int
    num_queries: int
    feature_dim: int
    without_relevant: int
    missing: int
    left_out: int
    equal: EqualTexts


def survey(
    source: PoolSource,
    *,
    with_features: bool,
    unknown_ids: Unknown,
    duplicates: Duplicates,
    report: Callable[[int], None],
) -> PoolSurvey:
    """Read a whole source; keep 64 bits of each id and each text in memory.

    Args:
        source: The source of candidates and queries.
        with_features: Whether vectors come with the source: each candidate and query has one, or none has.
        unknown_ids: Whether ids that are not in the pool are an error.
        duplicates: Whether candidates with equal texts are only counted (`keep`), or all found (`drop`).
        report: Called with the number of candidates and queries that were read.

    Raises:
        ConfigError: For an empty text or id, a repeated id, a missing or infinite vector or one of another size, a
            label that is not above 0, an id that is not in the pool, or a source without candidates.
    """
    look = _Look(with_features)
    texts: list[NDArray[np.int64]] = []
    parts = []
    for run in chunks_of(source.candidates(), _RUN):
        parts.append(look.at_candidates(run, report))
        texts.append(hash_texts(run))
    known = np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
    if not len(known):
        raise ConfigError("features.source", "has no candidate, so there is nothing to rank.")
    _refuse_twice(known, source.candidates, "candidate")
    links = _Links(known, unknown_ids)
    parts = [look.at_queries(run, links, report) for run in chunks_of(source.queries(), _RUN)]
    queries = np.sort(np.concatenate(parts)) if parts else known[:0]
    _refuse_twice(queries, source.queries, "query")
    links.raise_for_unknown()
    find = EqualTexts.found if duplicates == "drop" else EqualTexts.counted
    equal = find(source.candidates, np.concatenate(texts))
    left_out = links.num_missing, links.num_left_out
    return PoolSurvey(len(known), len(queries), look.feature_dim, links.without_relevant, *left_out, equal)


class _Look:
    """Checks each candidate and query separately."""

    def __init__(self, with_features: bool) -> None:
        self.with_features = with_features
        self._dim: int | None = None

    @property
    def feature_dim(self) -> int:
        """Size of the vectors, 0 if there are none."""
        return self._dim or 0

    def at_candidates(self, run: list[PoolText], report: Callable[[int], None]) -> NDArray[np.int64]:
        """Check candidates; return the hashes of their ids."""
        for each in run:
            self._check(each, "candidate")
        report(len(run))
        return hash_ids([each.id for each in run])

    def at_queries(self, run: list[PoolQuery], links: "_Links", report: Callable[[int], None]) -> NDArray[np.int64]:
        """Check queries; return the hashes of their ids, and add the ids that they name to `links`."""
        for query in run:
            self._check(query, "query")
            for id, label in (query.relevant or {}).items():
                if not (label > 0 and math.isfinite(label)):
                    raise _wrong(query, f"the label of {id!r} is {label}; relevant candidates have finite ones above 0")
            if query.candidates is not None:
                _check_own(query, query.candidates)
        links.note(run)
        report(len(run))
        return hash_ids([each.id for each in run])

    def _check(self, each: PoolText | PoolQuery, what: str) -> None:
        if not each.id:
            raise _wrong(each, f"a {what} has an empty id")
        if not each.text.strip():
            raise _wrong(each, f"the text of {what} {each.id!r} is empty")
        if not self.with_features:
            return
        size = len(each.feature or ())
        self._dim = size if self._dim is None else self._dim
        if self._dim and not size:
            raise _wrong(each, f"{what} {each.id!r} has no feature, and there is no encoder to make it")
        if size != self._dim:
            sizes = f"{size} numbers, those before it {self._dim or 'have none'}"
            raise _wrong(each, f"the feature of {what} {each.id!r} has {sizes}")
        if each.feature and not np.isfinite(np.asarray(each.feature, dtype=np.float64)).all():
            raise _wrong(each, f"the feature of {what} {each.id!r} has a number that is not finite")


class _Links:
    """The candidates that queries name, by the hashes of their ids."""

    def __init__(self, known: NDArray[np.int64], unknown_ids: Unknown) -> None:
        self.known, self.unknown_ids = known, unknown_ids
        self.without_relevant = self.num_queries = self.num_wrong = self.num_missing = self.num_left_out = 0
        self._shown: list[str] = []

    def note(self, run: Sequence[PoolQuery]) -> None:
        """Look up the candidates that these queries name."""
        named = [
            (place, field, id)
            for place, query in enumerate(run)
            for field in ("relevant", "history", "candidates")
            for id in getattr(query, field) or ()
        ]
        hashes = hash_ids([id for _, _, id in named])
        places = np.searchsorted(self.known, hashes).clip(max=len(self.known) - 1)
        there = self.known[places] == hashes
        answered = {
            place for (place, field, _), found in zip(named, there, strict=True) if found and field == "relevant"
        }
        self.without_relevant += len(run) - len(answered)
        self.num_queries += len(run)
        for place, field, id in (named[at] for at in np.flatnonzero(~there).tolist()):
            # Unknown ids in own candidates are never dropped: an empty list would mean the whole pool.
            if self.unknown_ids == "drop" and field != "candidates":
                self.num_missing += field == "relevant"
                self.num_left_out += field != "relevant"
                continue
            self.num_wrong += 1
            if self.num_wrong <= _MOST_SHOWN:
                query = run[place]
                # Judgements are often in another file than the query.
                if field == "relevant":
                    self._shown.append(f"{id!r}, judged for query {query.id!r}")
                else:
                    self._shown.append(f"{query.origin or query.id}: {id!r} in `{field}` of query {query.id!r}")

    def raise_for_unknown(self) -> None:
        """Raise an error if unknown ids are not allowed, or if no query has a relevant candidate."""
        if self.num_wrong:
            listing = "".join(f"\n  {each}" for each in self._shown)
            more = f"\n  and {self.num_wrong - len(self._shown):,} more" * (self.num_wrong > len(self._shown))
            count = "one id is" if self.num_wrong == 1 else f"{self.num_wrong:,} ids are"
            problem = f"{count} not among the {len(self.known):,} candidates:{listing}{more}"
            cure = "add them to the candidates; features.unknown_ids=drop counts the judged ones as never found"
            raise ConfigError("features.source", problem, cure=cure)
        if self.num_queries and self.without_relevant == self.num_queries:
            problem = f"none of its {self.num_queries:,} queries has a relevant candidate in the pool."
            raise ConfigError(
                "features.source", problem, cure="check that relevance names the ids of queries and candidates"
            )


def _refuse_twice(hashes: NDArray[np.int64], read: Callable[[], Iterator[Any]], what: str) -> None:
    """Raise an error if an id occurs twice; ids are compared only if their hashes are equal."""
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(twice):
        return
    places: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for run in chunks_of(read(), _RUN):
        for place in np.flatnonzero(np.isin(hash_ids([each.id for each in run]), twice)).tolist():
            each = run[place]
            counts[each.id] += 1
            if places.setdefault(each.id, each.origin) != each.origin or counts[each.id] > 1:
                first = f": the other is {places[each.id]}" if places[each.id] else ""
                raise _wrong(each, f"another {what} has the id {each.id!r}{first}")


def _check_own(query: PoolQuery, own: Sequence[str]) -> None:
    distinct = set(own)
    if not distinct:
        raise _wrong(query, f"query {query.id!r} has an empty list of candidates")
    if len(distinct) < len(own):
        raise _wrong(query, f"query {query.id!r} has {max(own, key=list(own).count)!r} twice among its own candidates")
    if missing := [id for id in query.relevant or () if id not in distinct]:
        raise _wrong(query, f"{missing[0]!r} is relevant to query {query.id!r}, but not among its own candidates")


def _wrong(each: PoolText | PoolQuery, problem: str) -> ConfigError:
    return ConfigError(each.origin or each.id or "features.source", f"{problem}.")
