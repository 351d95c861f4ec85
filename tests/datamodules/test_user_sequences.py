"""UserSequences: what recommenders are trained on, as plain loops find it."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.pools.sequence_batches import LaneBatches, SequenceBatches
from datamodules.pools.sequences import pieces_of, sequences_of_users
from datamodules.pools.token_lists import TokenLists
from datamodules.user_sequences import UserSequences
from features.extractors.candidate_pool import CandidatePoolExtractor
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Reading, Sequences
from ranking.stores.candidate_pool import CandidatePool
from registry import ConfigError

ITEMS = {"a": [1, 2, 3, 4, 5, 6, 7], "b": [3, 1, 9, 2], "c": [5, 6], "d": [2, 8, 7, 6, 1, 3]}


def write(folder: Path, **windows: Any) -> CandidatePool:
    lines = [" ".join([user, *map(str, items)]) for user, items in ITEMS.items()]
    folder.mkdir(exist_ok=True)
    (folder / "s.txt").write_text("\n".join(lines) + "\n")
    source = {"name": "s3rec", "path": str(folder / "s.txt"), "windows": {"min_history": 1, **windows}}
    return CandidatePool.open(CandidatePoolExtractor(source, None, path=str(folder / "pool")).run())


def users_items(pool: CandidatePool, sequences: TokenLists) -> dict[str, list[int]]:
    """The ids of items, by user."""
    found = {}
    for place, query in enumerate(sequences.index.tolist()):
        rows = sequences.flat[sequences.offsets[place] : sequences.offsets[place + 1]].tolist()
        found[pool.queries.id(query).split("-")[0]] = [int(pool.id(row)) for row in rows]
    return found


@pytest.mark.parametrize(
    "windows", [{"history": 9}, {"history": 2, "max_windows": None}, {"history": 3, "stride": 2, "max_windows": None}]
)
def test_a_users_sequence_is_the_same_however_its_queries_overlap(
    tmp_path: Path, windows: dict[str, int | None]
) -> None:
    pool = write(tmp_path, **windows)
    train = (pool.queries.split == 0).nonzero().flatten()
    expected = {user: items[:-2] for user, items in ITEMS.items() if len(items) > 3}
    assert users_items(pool, sequences_of_users(pool, train)) == expected


def lists(*sequences: list[int]) -> TokenLists:
    sizes = torch.tensor([0, *map(len, sequences)]).cumsum(0)
    return TokenLists(torch.arange(len(sequences)), torch.tensor([item for each in sequences for item in each]), sizes)


def test_pieces_predict_every_item_but_the_first_once() -> None:
    pieces = pieces_of(lists([1, 2, 3, 4, 5, 6], [7], [8, 9]), 2)
    found = [pieces.flat[a:b].tolist() for a, b in zip(pieces.offsets[:-1], pieces.offsets[1:], strict=True)]
    assert (pieces.index.tolist(), found) == ([0, 0, 0, 2], [[4, 5, 6], [2, 3, 4], [1, 2], [8, 9]])
    assert pieces_of(lists([1, 2, 3, 4]), None).flat.tolist() == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> CandidatePool:
    return write(tmp_path_factory.mktemp("users"), history=20, max_windows=1)


def rows_of(batch: PoolBatch) -> list[list[int]]:
    assert batch.history is not None
    return [[row for row in each if row >= 0] for each in batch.history.tolist()]


def test_an_epoch_has_every_piece_once_in_another_order_and_processes_share_it(pool: CandidatePool) -> None:
    pieces = lists(*([place, place + 1, *range(place % 3)] for place in range(10)))
    given: dict[str, Any] = {"batch_size": 4, "seed": 1}
    one = SequenceBatches(pool, pieces, **given, rank=0, world=1)
    epochs = [[rows for step in range(one.num_steps()) for rows in rows_of(one.batch(epoch, step))] for epoch in (0, 1)]
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])
    assert len(epochs[0]) == 10
    both = [SequenceBatches(pool, pieces, **given, rank=rank, world=2) for rank in range(2)]
    for step in range(one.num_steps()):
        shared = [rows for each in both for rows in rows_of(each.batch(0, step))]
        assert sorted(shared) == sorted(rows_of(one.batch(0, step)))


def test_lanes_follow_sequences_item_by_item(pool: CandidatePool) -> None:
    sequences = lists([1, 2, 3], [4, 5], [6, 7, 8, 9], [10, 11, 12])
    lanes = LaneBatches(pool, sequences, batch_size=2, seed=0, rank=0, world=1)
    steps = [lanes.batch(0, step) for step in range(lanes.num_steps())]
    assert len(steps) == 4  # (2 + 1 + 3 + 2) pairs in two lanes
    pairs = [tuple(row) for step in steps for row in rows_of(step)]
    assert sorted(pairs) == [(1, 2), (2, 3), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11), (11, 12)]
    for before, after in pairwise(steps):
        for lane in range(2):
            if before.group[lane] == after.group[lane]:
                assert rows_of(before)[lane][1] == rows_of(after)[lane][0]
    assert all(step.rows.tolist() == [pair[1] for pair in rows_of(step)] for step in steps)
    two = [LaneBatches(pool, sequences, batch_size=2, seed=0, rank=rank, world=2).batch(0, 1) for rank in range(2)]
    assert [rows_of(each)[0] for each in two] == rows_of(steps[1])
    assert torch.equal(two[0].rows, steps[1].rows)


def test_facts_and_references(pool: CandidatePool) -> None:
    data = UserSequences(str(pool.path), batch_size=2)
    assert data.facts == {"feature_dim": 0, "num_items": 9, "num_users": 3}
    assert data.default_references == ["popularity"]
    assert data.steps_per_epoch == 2


def test_queries_rank_lists_of_their_own(pool: CandidatePool, tmp_path: Path) -> None:
    shares: dict[str, Any] = {"batch_size": 2, "split_shares": (0.4, 0.3, 0.3)}
    listed = write(tmp_path / "listed", history=3, min_history=1, by="user", negatives=2)
    data = UserSequences(str(listed.path), candidates="own", **shares)
    own, removed = data.restrictions(torch.arange(4))
    assert removed is None and own is not None and own.shape == (4, 3)
    for query, rows in enumerate(own.tolist()):
        user = listed.queries.id(query).split("-")[0]
        assert len({int(listed.id(row)) for row in rows} & set(ITEMS[user])) == 1
    with pytest.raises(ConfigError, match=r"(?s)datamodule.candidates: 10 of 10 queries have no list.*candidates=pool"):
        UserSequences(str(pool.path), candidates="own")


class Reader:
    """A ranker with weights that learns from queries."""

    name, is_trained, references = "reader", True, {}

    def reading(self) -> Reading:
        return Reading()


class Short(Reader):
    """A ranker that reads the latest two items."""

    def reading(self) -> Reading:
        return Reading(histories=True, longest_history=2, sequences=Sequences(2))


def test_histories_that_are_longer_than_what_is_read_are_counted(
    pool: CandidatePool, capsys: pytest.CaptureFixture[str]
) -> None:
    UserSequences(str(pool.path)).read_for(Short(), "test")
    assert "3 of 4 test queries have histories of more than 2 items: the ranker reads the latest" in (
        capsys.readouterr().err
    )


def test_what_does_not_fit_is_refused(pool: CandidatePool, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)datamodule.name: reader learns from queries.*partitioned_candidates"):
        UserSequences(str(pool.path)).check_ranker(Reader())
    with pytest.raises(ConfigError, match="cannot be shared evenly by 2 processes"):
        SequenceBatches(pool, lists([1, 2]), batch_size=3, seed=0, rank=0, world=2)
    with pytest.raises(ConfigError, match="too few items for each lane to train on"):
        LaneBatches(pool, lists([1, 2]), batch_size=4, seed=0, rank=0, world=1)
    assert Sequences().longest is None
