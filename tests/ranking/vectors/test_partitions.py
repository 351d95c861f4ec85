import pickle

import pytest
import torch

from ranking.vectors import permutation
from ranking.vectors.partitions import Partitions


def part_of(partitions: Partitions, split: int) -> torch.Tensor:
    """The part of each candidate."""
    return partitions.parts(split, torch.arange(partitions.num_candidates))


@pytest.mark.parametrize(("num_candidates", "num_partitions"), [(1, 1), (10, 10), (23, 7), (100, 3), (1001, 10)])
@pytest.mark.parametrize("kept", [0, 1 << 16])
def test_parts_are_disjoint_balanced_and_hold_every_candidate(
    num_candidates: int, num_partitions: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permutation, "_KEPT", kept)
    partitions = Partitions(num_candidates, num_partitions, num_splits=3, seed=5)
    for split in range(3):
        found, held = part_of(partitions, split), []
        for part in range(num_partitions):
            rows = partitions.rows(split, part)
            assert rows.tolist() == [row for row, its in enumerate(found.tolist()) if its == part]
            assert len(rows) in (num_candidates // num_partitions, -(-num_candidates // num_partitions))
            held += rows.tolist()
        assert sorted(held) == list(range(num_candidates))


def test_parts_are_a_function_of_their_seed_and_split() -> None:
    partitions = Partitions(500, 10, 4, seed=1)
    again, other = pickle.loads(pickle.dumps(partitions)), Partitions(500, 10, 4, seed=2)
    for split in range(4):
        assert torch.equal(part_of(partitions, split), part_of(again, split))
        assert not torch.equal(part_of(partitions, split), part_of(other, split))
        assert not torch.equal(part_of(partitions, split), part_of(partitions, (split + 1) % 4))
    assert torch.equal(part_of(Partitions(500, 10, 2, seed=1), 1), part_of(partitions, 1))


def test_parts_are_numbered_split_by_split() -> None:
    partitions = Partitions(500, 10, 4, seed=1)
    numbers = [partitions.index(split, part) for split in range(4) for part in range(10)]
    assert numbers == list(range(len(partitions)))


def test_the_part_of_some_candidates_is_the_one_they_have_among_all() -> None:
    partitions, some = Partitions(500, 7, 2, seed=0), torch.tensor([3, 499, 3, 77])
    assert torch.equal(partitions.parts(1, some), part_of(partitions, 1)[some])
    assert torch.equal(partitions.rows_at(1, partitions.places(1, some)), some)


@pytest.mark.parametrize(("num_candidates", "num_partitions", "num_splits"), [(3, 4, 1), (3, 0, 1), (3, 2, 0)])
def test_more_parts_than_candidates_are_refused(num_candidates: int, num_partitions: int, num_splits: int) -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        Partitions(num_candidates, num_partitions, num_splits, seed=0)
