"""Equal texts: counts candidates of a pool with equal texts, which rankers cannot separate, and can drop them."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.texts.pools import PoolQuery, PoolSource, PoolText, largest_labels
from ranking.stores.id_index import hash_ids

_MOST_SHOWN = 3


def hash_texts(candidates: Iterable[PoolText]) -> NDArray[np.int64]:
    """64-bit hashes of each candidate's text, and of its vector if it came with one."""
    return hash_ids([_seen(each) for each in candidates])


@dataclass(frozen=True)
class EqualTexts:
    """The candidates of a pool whose text an earlier candidate has, too.

    Args:
        count: Number of such candidates.
        first: For each of their ids, the id of the first candidate with that text; only some examples if none are
            dropped.
    """

    count: int
    first: Mapping[str, str]

    @classmethod
    def counted(cls, read: Callable[[], Iterable[PoolText]], hashes: NDArray[np.int64]) -> "EqualTexts":
        """Count equal texts by the hashes of all texts, in order; read only a few examples."""
        places, firsts = _repeats(hashes)
        pairs = list(zip(places[:_MOST_SHOWN].tolist(), firsts[:_MOST_SHOWN].tolist(), strict=True))
        wanted = {place for pair in pairs for place in pair}
        ids: dict[int, str] = {}
        for place, each in enumerate(read() if wanted else ()):
            if place in wanted:
                ids[place] = each.id
                if len(ids) == len(wanted):
                    break
        return cls(len(places), {ids[place]: ids[first] for place, first in pairs})

    @classmethod
    def found(cls, read: Callable[[], Iterable[PoolText]], hashes: NDArray[np.int64]) -> "EqualTexts":
        """Find all equal texts; compare texts only if their hashes are equal, and keep no others in memory."""
        places, firsts = _repeats(hashes)
        flagged = np.zeros(len(hashes), dtype=bool)
        flagged[places] = flagged[firsts] = True
        known: dict[bytes, str] = {}
        first: dict[str, str] = {}
        for each in itertools.compress(read() if len(places) else (), flagged.tobytes()):
            digest = hashlib.blake2b(_seen(each).encode(), digest_size=16).digest()
            if (kept := known.setdefault(digest, each.id)) != each.id:
                first[each.id] = kept
        return cls(len(first), first)

    @property
    def examples(self) -> str:
        """Some examples, in words."""
        shown = [f"{id!r} that of {kept!r}" for id, kept in itertools.islice(self.first.items(), _MOST_SHOWN)]
        return ", ".join(shown) + (", ..." if self.count > len(shown) else "")


@dataclass(frozen=True)
class DistinctPool:
    """A pool source without candidates that repeat a text; references to them become references to the first one.

    Args:
        source: The source with all candidates.
        equal: The candidates to drop.
    """

    source: PoolSource
    equal: EqualTexts

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the source."""
        return self.source.fingerprint()

    def candidates(self) -> Iterator[PoolText]:
        """Yield the first candidate of each text."""
        return (each for each in self.source.candidates() if each.id not in self.equal.first)

    def queries(self) -> Iterator[PoolQuery]:
        """Yield every query; of several judgements of equal candidates, the highest counts."""
        for query in self.source.queries():
            own = query.candidates
            judged = query.relevant
            yield replace(
                query,
                relevant=judged and largest_labels((self._kept(id), label) for id, label in judged.items()),
                history=[self._kept(id) for id in query.history],
                candidates=None if own is None else list(dict.fromkeys(map(self._kept, own))),
            )

    def _kept(self, id: str) -> str:
        return self.equal.first.get(id, id)


def _repeats(hashes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices of repeated values, in order, and the index of each value's first occurrence."""
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return twice, twice
    flagged = np.flatnonzero(np.take(twice, np.searchsorted(twice, hashes), mode="clip") == hashes)
    _, index, inverse = np.unique(hashes[flagged], return_index=True, return_inverse=True)
    firsts = flagged[index[inverse]]
    again = firsts != flagged
    return flagged[again], firsts[again]


def _seen(each: PoolText) -> str:
    return each.text if each.feature is None else f"{each.text}\0{each.feature}"
