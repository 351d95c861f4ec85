"""Equal texts: candidates of a pool that a ranker cannot tell apart, counted, and dropped where that is wanted."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.pool_sources import PoolQuery, PoolSource, PoolText, largest_labels
from ranking.id_index import hash_ids

_MOST_SHOWN = 3


def hash_texts(candidates: Iterable[PoolText]) -> NDArray[np.int64]:
    """64 bits of what a ranker sees of each candidate: its text, and its vector if it came with one."""
    return hash_ids([_seen(each) for each in candidates])


def repeated(hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values that come more than once, in order."""
    ordered = np.sort(hashes)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


@dataclass(frozen=True)
class EqualTexts:
    """The candidates of a pool whose text another one before them has.

    Args:
        first: For each of them, by id, the id of the first candidate with that text.
    """

    first: Mapping[str, str]

    @classmethod
    def of(cls, read: Callable[[], Iterable[PoolText]], twice: NDArray[np.int64]) -> "EqualTexts":
        """Find them among the candidates whose hash comes twice; others are not held."""
        known: dict[bytes, str] = {}
        first: dict[str, str] = {}
        if len(twice):
            flagged = frozenset(twice.tolist())
            for each in read():
                if hash_texts([each]).item() in flagged:
                    digest = hashlib.blake2b(_seen(each).encode(), digest_size=16).digest()
                    if (kept := known.setdefault(digest, each.id)) != each.id:
                        first[each.id] = kept
        return cls(first)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.first)

    @property
    def examples(self) -> str:
        """Some of them."""
        shown = [f"{id!r} that of {kept!r}" for id, kept in list(self.first.items())[:_MOST_SHOWN]]
        return ", ".join(shown) + (", ..." if len(self) > len(shown) else "")


@dataclass(frozen=True)
class DistinctPool:
    """A pool source without the candidates that repeat a text; what names them names the first with that text.

    Args:
        source: With all of them.
        equal: Those to drop.
    """

    source: PoolSource
    equal: EqualTexts

    def fingerprint(self) -> dict[str, Any]:
        """That of the source."""
        return self.source.fingerprint()

    def candidates(self) -> Iterator[PoolText]:
        """The first candidate of each text."""
        return (each for each in self.source.candidates() if each.id not in self.equal.first)

    def queries(self) -> Iterator[PoolQuery]:
        """Every query; of the judgements of equal candidates the highest counts."""
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


def _seen(each: PoolText) -> str:
    return each.text if each.feature is None else f"{each.text}\0{each.feature}"
