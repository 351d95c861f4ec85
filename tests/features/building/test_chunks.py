import pickle

import pytest

from features.building.chunks import Chunks, chunks_of


def numbers() -> range:
    return range(7)


def test_chunks_are_runs_of_a_size_and_the_last_is_what_is_left() -> None:
    assert list(chunks_of(numbers(), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks_of([], 3)) == []


def test_any_chunk_can_be_asked_for_and_there_are_no_others() -> None:
    chunks = Chunks(numbers, 3)
    assert [chunks[2], chunks[0], chunks[1], chunks[1]] == [[6], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    with pytest.raises(IndexError, match="there are 3 chunks"):
        chunks[3]


def test_chunks_that_were_read_can_be_sent_to_another_process() -> None:
    chunks = Chunks(numbers, 3)
    assert chunks[1] == [3, 4, 5]
    assert pickle.loads(pickle.dumps(chunks))[1] == [3, 4, 5]
