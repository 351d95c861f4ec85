"""Chunks: runs of consecutive items that are processed together."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def chunks_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split items into runs of `size` items; the last run may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


class Chunks(Generic[T]):
    """Gives chunks of equal size by number; it reads forwards, so asking for a later chunk skips those between.

    Args:
        read: Returns an iterator over all items, from the first one, at each call.
        size: Number of items in a chunk.
    """

    def __init__(self, read: Callable[[], Iterable[T]], size: int) -> None:
        self._read, self._size = read, size
        self._chunks: Iterator[list[T]] | None = None
        self._next = 0

    def __getstate__(self) -> dict[str, Any]:
        # Another process starts reading at the first item.
        return vars(self) | {"_chunks": None, "_next": 0}

    def __getitem__(self, number: int) -> list[T]:
        if self._chunks is None or number < self._next:
            self._chunks, self._next = chunks_of(self._read(), self._size), 0
        for chunk in self._chunks:
            self._next += 1
            if self._next > number:
                return chunk
        raise IndexError(f"there are {self._next} chunks")
