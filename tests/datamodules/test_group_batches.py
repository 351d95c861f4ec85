import dataclasses
from typing import Any

import pytest
import torch

from datamodules.drawing import draw_slots, has_order, has_relevant, slots_of
from datamodules.group_batches import EvaluationBatches, FeatureMaker, TrainingBatches, UsableSlots
from ranking.batch import FeatureBatch
from ranking.stores.group_store import GroupStore
from registry import ConfigError

K = 5
GROUPS = [group for group in range(60) if group % 5 in (0, 1, 3)]


def all_usable(store: GroupStore) -> UsableSlots:
    return UsableSlots.of(store, store.valid & ~store.label.isnan())


def training(store: GroupStore, **changes: Any) -> TrainingBatches:
    groups = torch.tensor(changes.pop("groups", GROUPS)).repeat_interleave(changes.pop("groups_per_query", 4))
    options = {"num_candidates": K, "batch_size": 16, "keep": has_order, "seed": 0}
    maker = FeatureMaker(all_usable(store), [0])
    if (negatives := changes.pop("negatives", "group")) == "all":
        negatives = maker.vectors(slots_of(maker.slots.offsets, groups.unique())[1])
    maker = dataclasses.replace(maker, negatives=negatives)
    return TrainingBatches(maker, groups, **{**options, "rank": 0, "world": 1, **changes})


def epoch_of(source: TrainingBatches | EvaluationBatches, epoch: int = 0) -> list[FeatureBatch]:
    return [source.batch(epoch, step) for step in range(source.num_steps())]


def keys(batches: list[FeatureBatch]) -> list[tuple[int, ...]]:
    """Each drawn group and its slots, in order."""
    return [
        (group, *slots)
        for batch in batches
        for group, slots in zip(batch.group.tolist(), batch.slot.tolist(), strict=True)
    ]


def assert_equals_a_loop_over_the_store(batch: FeatureBatch, store: GroupStore, usable: list[list[int]]) -> None:
    """Labels, mask and vectors of a batch, one by one."""
    queries, candidates = batch.query, batch.candidates
    for row, group in enumerate(batch.group.tolist()):
        assert queries[row].tolist() == [group, 0, 1]
        slots = batch.slot[row].tolist()
        real = [slot for slot in slots if slot >= 0]
        assert slots == real + [-1] * (len(slots) - len(real))
        assert set(real) <= set(usable[group])
        assert len(set(real)) == len(real) == min(len(slots), len(usable[group]))
        assert batch.mask[row].tolist() == [slot >= 0 for slot in slots]
        for place, slot in enumerate(real):
            name = int(store.candidate[slot])
            assert candidates[row, place].tolist() == [name, name / 2, -1]
            assert batch.labels[row, place] == store.label[slot]


@pytest.mark.parametrize("num_candidates", [3, 5, 12, 20])
def test_batches_equal_a_plain_loop_over_the_store(
    store: GroupStore, usable: list[list[int]], num_candidates: int
) -> None:
    for batch in epoch_of(training(store, num_candidates=num_candidates)):
        assert batch.slot.shape[1] == num_candidates
        assert_equals_a_loop_over_the_store(batch, store, usable)


def test_every_vector_is_held_once_however_many_groups_share_it(store: GroupStore) -> None:
    for batch in epoch_of(training(store, batch_size=64)):
        needed = {int(row) for row in store.candidate[batch.slot[batch.mask]]}
        assert sorted(batch.unique_candidates[:, 0].int().tolist()) == sorted(needed)
        assert sorted(batch.unique_queries[:, 0].int().tolist()) == sorted(set(batch.group.tolist()))
        assert len(needed) < int(batch.mask.sum())
        assert batch.unique_candidates.dtype == torch.float16


def test_an_epoch_has_each_query_as_often_as_asked_unless_it_cannot_teach_an_order(
    store: GroupStore, usable: list[list[int]]
) -> None:
    def can_teach(group: int) -> bool:
        return len({float(store.label[slot]) for slot in usable[group]}) > 1

    wide = keys(epoch_of(training(store, num_candidates=12)))
    assert sorted(key[0] for key in wide) == sorted(group for group in GROUPS for _ in range(4) if can_teach(group))
    unfiltered = keys(epoch_of(training(store, keep=None)))
    assert sorted(key[0] for key in unfiltered) == sorted(GROUPS * 4)
    assert [key[0] for key in unfiltered] != sorted(GROUPS * 4)


def test_no_drawn_group_lacks_an_order_when_those_are_dropped(store: GroupStore) -> None:
    for batch in epoch_of(training(store, num_candidates=2)):
        for labels, mask in zip(batch.labels, batch.mask, strict=True):
            assert len(set(labels[mask].tolist())) > 1


def test_seed_and_epoch_alone_decide(store: GroupStore) -> None:
    first = training(store)
    epochs = [keys(epoch_of(first, epoch)) for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] == keys(epoch_of(training(store)))
    assert epochs[0] != epochs[1]
    assert keys(epoch_of(training(store, seed=1))) != epochs[0]
    assert keys([first.batch(1, 2)]) == epochs[1][2 * 16 : 3 * 16]


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batches_of_one_evenly(store: GroupStore, world: int) -> None:
    alone = epoch_of(training(store))
    count = sum(len(batch.group) for batch in alone)
    shares = [epoch_of(training(store, rank=rank, world=world)) for rank in range(world)]
    assert {len(share) for share in shares} == {-(-(count - count % world) // 16)}
    together = [key for step in zip(*shares, strict=True) for key in keys(list(step))]
    assert together == keys(alone)[: count - count % world]
    assert len({tuple(len(batch.group) for batch in share) for share in shares}) == 1


@pytest.mark.parametrize("negatives", ["batch", "all"])
def test_each_process_trains_against_the_shared_negatives_of_all(store: GroupStore, negatives: str) -> None:
    alone = epoch_of(training(store, negatives=negatives, keep=has_relevant))[0]
    labels, mask = alone.against_table()
    shares = [
        training(store, negatives=negatives, keep=has_relevant, rank=rank, world=2).batch(0, 0) for rank in (0, 1)
    ]
    assert all(torch.equal(share.unique_candidates, alone.unique_candidates) for share in shares)
    tables = [share.against_table() for share in shares]
    assert torch.equal(torch.cat([each for each, _ in tables]), labels)
    assert torch.equal(torch.cat([each for _, each in tables]), mask)


def test_every_epoch_has_the_steps_of_the_first(store: GroupStore) -> None:
    source = training(store, num_candidates=2, batch_size=8)
    sizes = {epoch: [len(batch.group) for batch in epoch_of(source, epoch)] for epoch in range(6)}
    assert set(map(tuple, sizes.values())) == {tuple(sizes[0])}
    kept = {epoch: keys(epoch_of(source, epoch)) for epoch in range(1, 6)}
    assert any(len(set(drawn)) < len(drawn) for drawn in kept.values()), "no epoch was short: choose another seed"


def test_a_batch_that_processes_cannot_share_is_refused(store: GroupStore) -> None:
    with pytest.raises(ConfigError, match="16 groups cannot be shared evenly by 3"):
        training(store, world=3)


def test_queries_that_teach_nothing_are_refused(store: GroupStore) -> None:
    with pytest.raises(ConfigError, match="nothing can be learnt"):
        training(store, groups=[0])


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_evaluation_has_each_drawn_group_once_over_all_processes(
    store: GroupStore, usable: list[list[int]], world: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.group_batches._EVALUATION_BYTES", at_once * 4 * K * store.feature_dim)
    slots, groups = all_usable(store), torch.arange(1, 12).repeat_interleave(2)
    drawn = draw_slots(slots.offsets, groups, K, torch.Generator().manual_seed(0))
    found = []
    for rank in range(world):
        batches = epoch_of(EvaluationBatches(FeatureMaker(slots, [0]), groups, drawn, rank=rank, world=world))
        assert all(len(batch.group) <= at_once for batch in batches)
        found += keys(batches)
        for batch in batches:
            assert_equals_a_loop_over_the_store(batch, store, usable)
    expected = [
        (group, *(int(slots.slot[at]) if at >= 0 else -1 for at in row))
        for group, row in zip(groups.tolist(), drawn.tolist(), strict=True)
    ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_all_processes_evaluate_in_equally_many_steps(
    store: GroupStore, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.group_batches._EVALUATION_BYTES", 4 * K * store.feature_dim)
    slots, groups = all_usable(store), torch.arange(1, 10)
    drawn = draw_slots(slots.offsets, groups, K, torch.Generator())
    sources = [EvaluationBatches(FeatureMaker(slots, [0]), groups, drawn, rank=r, world=world) for r in range(world)]
    assert {source.num_steps() for source in sources} == {-(-9 // world)}


def test_a_process_without_a_query_still_takes_part(store: GroupStore) -> None:
    slots, groups = all_usable(store), torch.tensor([5])
    drawn = draw_slots(slots.offsets, groups, K, torch.Generator())
    source = EvaluationBatches(FeatureMaker(slots, [0]), groups, drawn, rank=1, world=2)
    assert [batch.labels.shape for batch in epoch_of(source)] == [(0, K)]


@pytest.mark.parametrize("negatives", ["batch", "all"])
def test_shared_negatives_leave_out_what_is_not_known_to_be_wrong(store: GroupStore, negatives: str) -> None:
    source = training(store, negatives=negatives, keep=has_relevant)
    bounds = store.offsets.tolist()
    for batch in epoch_of(source):
        rows = batch.unique_candidates[:, 0].int().tolist()
        assert len(set(rows)) == len(rows)
        if negatives == "batch":
            assert set(rows) == {int(row) for row in store.candidate[batch.slot[batch.mask]]}
        labels, mask = batch.against_table()
        for place, group in enumerate(batch.group.tolist()):
            shown = {
                int(store.candidate[slot]): float(store.label[slot]) for slot in batch.slot[place].tolist() if slot >= 0
            }
            unsure = {
                int(store.candidate[slot])
                for slot in range(bounds[group], bounds[group + 1])
                if not (store.valid[slot] and store.label[slot] <= 0)
            }
            assert labels[place].tolist() == [shown.get(row, 0.0) for row in rows]
            assert mask[place].tolist() == [row in shown or row not in unsure for row in rows]


def test_all_negatives_are_those_of_the_training_queries_and_one_table_serves_every_step(
    store: GroupStore, usable: list[list[int]]
) -> None:
    source = training(store, negatives="all", keep=has_relevant)
    batches = epoch_of(source)
    expected = {int(store.candidate[slot]) for group in GROUPS for slot in usable[group]}
    assert batches[0].unique_candidates[:, 0].int().tolist() == sorted(expected)
    assert len({batch.unique_candidates.data_ptr() for batch in batches}) == 1


def test_a_batch_drawn_for_its_own_groups_has_no_shared_negatives(store: GroupStore) -> None:
    with pytest.raises(ValueError, match="negatives: batch"):
        training(store).batch(0, 0).against_table()
