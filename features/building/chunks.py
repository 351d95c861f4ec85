"""Chunks: runs of items that are worked on together."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def chunks_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Runs of so many items; the last one may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


class Chunks(Generic[T]):
    """Items in chunks of equal size, by number, read forwards: asking for a later one skips others.

    Args:
        read: Gives all items, from the first one on, whenever it is called.
        size: Of a chunk.
    """

    def __init__(self, read: Callable[[], Iterable[T]], size: int) -> None:
        self._read, self._size = read, size
        self._chunks: Iterator[list[T]] | None = None
        self._next = 0

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads from the first item on.
        return vars(self) | {"_chunks": None, "_next": 0}

    def __getitem__(self, number: int) -> list[T]:
        if self._chunks is None or number < self._next:
            self._chunks, self._next = chunks_of(self._read(), self._size), 0
        for chunk in self._chunks:
            self._next += 1
            if self._next > number:
                return chunk
        raise IndexError(f"there are {self._next} chunks")
