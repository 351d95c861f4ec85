"""Equal texts are counted without holding ids, and all found where they are to be dropped."""

from collections.abc import Iterator

import numpy as np
import pytest

from features.texts.equal_texts import EqualTexts, hash_texts
from features.texts.pools import PoolText

TEXTS = ["x", "a", "b", "a", "c", "b", "a", "d", "c", "e", "f"]


def pool(texts: list[str], read: list[str] | None = None) -> Iterator[PoolText]:
    for place, text in enumerate(texts):
        if read is not None:
            read.append(text)
        yield PoolText(f"{place}", text)


def test_they_are_counted_by_their_hashes_and_read_up_to_the_third() -> None:
    read: list[str] = []
    found = EqualTexts.counted(lambda: pool(TEXTS, read), hash_texts(pool(TEXTS)))
    assert found == EqualTexts(4, {"3": "1", "5": "2", "6": "1"})
    assert found.examples == "'3' that of '1', '5' that of '2', '6' that of '1', ..."
    assert read == TEXTS[:7]


def test_all_of_them_are_found_with_the_first_of_each() -> None:
    found = EqualTexts.found(lambda: pool(TEXTS), hash_texts(pool(TEXTS)))
    assert found == EqualTexts(4, {"3": "1", "5": "2", "6": "1", "8": "4"})


@pytest.mark.parametrize("find", [EqualTexts.counted, EqualTexts.found])
def test_a_pool_without_them_is_not_read_again(find: object) -> None:
    read: list[str] = []
    for texts in ([], ["a"], ["a", "b"]):
        found = find(lambda texts=texts: pool(texts, read), hash_texts(pool(texts)))  # type: ignore[operator]
        assert (found, found.examples, read) == (EqualTexts(0, {}), "", [])


def test_texts_whose_hashes_alone_are_equal_are_not_dropped() -> None:
    found = EqualTexts.found(lambda: pool(["a", "b", "a"]), np.zeros(3, dtype=np.int64))
    assert found == EqualTexts(1, {"2": "0"})


def test_texts_are_hashed_no_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = hash_texts(pool(TEXTS))
    monkeypatch.setattr("features.texts.equal_texts.hash_ids", None)
    assert EqualTexts.counted(lambda: pool(TEXTS), hashes).count == 4
    assert EqualTexts.found(lambda: pool(TEXTS), hashes).count == 4
