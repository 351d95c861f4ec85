"""Batches of new groups with groups of an old store beside them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.grouped_features import GroupedFeatures
from datamodules.replay import Replay
from datamodules.text_groups import TextGroups
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import RANKERS, ConfigError

DIM = 16


def small_store(path: Path, kind: str = "old", dim: int = DIM, number: int = 20) -> Path:
    """Groups of two to four candidates; all but the last four are to train."""
    draw = torch.Generator().manual_seed(number)
    sizes = torch.arange(number) % 3 + 2
    count = int(sizes.sum())
    with GroupStoreWriter(path, feature_dim=dim, depths=[None], dtype="float32", settings={}) as writer:
        writer.add_candidates(torch.randn(count, 1, dim, generator=draw), [f"{kind} {row}" for row in range(count)])
        writer.add_groups(
            ids=[f"{kind[0]}{place}" for place in range(number)],
            texts=[f"{kind} query {place}" for place in range(number)],
            features=torch.randn(number, 1, dim, generator=draw),
            offsets=torch.nn.functional.pad(sizes.cumsum(0), (1, 0)),
            candidate=torch.arange(count),
            label=torch.cat([torch.tensor([1.0] + [0.0] * (size - 1)) for size in sizes.tolist()]),
            slot_ids=[f"s{row}" for row in range(count)],
            split=["train"] * (number - 4) + ["val", "val", "test", "test"],
        )
        return writer.finish()


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("stores") / "old")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("stores") / "new", "new", number=76)


def batches(data: Any, epochs: int) -> list[Any]:
    loader, found = data.train_dataloader(), []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        found += list(loader)
    return found


def test_a_share_of_each_batch_is_old_and_scores_as_in_its_own_store(new: Path, old: Path) -> None:
    options: dict[str, Any] = {"num_candidates": 6, "batch_size": 12, "seed": 1}
    data = GroupedFeatures(str(new), replay=Replay(str(old), 0.25), **options)
    ranker = RANKERS.build("list_ranker", feature_dim=DIM).eval()
    both, opened = {"new": data.store, "old": data.replayed.store}, data.store  # type: ignore[union-attr]
    for step, batch in enumerate(batches(data, 1)[:-1]):
        is_old = batch.group >= opened.num_groups
        # The last batch of an epoch of old groups has one.
        assert is_old.sum() == (1 if step == 5 else 3) and (~is_old).sum() == 9
        scores = ranker(batch)
        for row, group in enumerate(batch.group.tolist()):
            kept, first = both["old" if is_old[row] else "new"], (opened if is_old[row] else None)
            group, moved = (group - first.num_groups, first.num_slots) if first else (group, 0)
            slots = (batch.slot[row][batch.mask[row]] - moved).tolist()
            assert all(kept.offsets[group] <= slot < kept.offsets[group + 1] for slot in slots)
            assert torch.equal(batch.labels[row][batch.mask[row]], kept.label[slots])
            query = kept.query_features(torch.tensor([group]))
            candidates = kept.candidate_features(kept.candidate[slots])
            assert torch.equal(batch.query[row], query[0])
            assert torch.equal(batch.candidates[row][batch.mask[row]], candidates)
            vectors = ranker.layers.refine(
                ranker.layers.project(torch.cat([query, candidates])).unsqueeze(0),
                torch.ones(1, 1 + len(slots), dtype=torch.bool),
            )
            expected = ranker.similarity(vectors[:, :1], vectors[:, 1:]).flatten()
            torch.testing.assert_close(scores[row][batch.mask[row]], expected, rtol=1e-4, atol=1e-5)


def test_all_old_groups_have_their_turn_and_an_epoch_draws_the_new_ones_once(new: Path, old: Path) -> None:
    data = GroupedFeatures(str(new), replay=Replay(str(old), 0.1), batch_size=10, seed=0, drop_unordered=False)
    found = [batch.group for batch in batches(data, 2)]
    assert data.steps_per_epoch == 8 and len(found) == 16
    groups = torch.cat(found)
    old_ones = groups[groups >= data.store.num_groups] - data.store.num_groups
    assert len(old_ones) == 16 and set(old_ones.tolist()) == set(range(16))
    first = torch.cat(found[:8])
    assert sorted(first[first < data.store.num_groups].tolist()) == [
        group for group in range(data.store.num_groups) if data.store.split[group] == 0
    ]


def test_texts_are_replayed_too(new: Path, old: Path) -> None:
    data = TextGroups(str(new), replay=Replay(str(old)), num_candidates=4, batch_size=8, seed=0)
    batch = batches(data, 1)[0]
    for group, query, texts, mask in zip(
        batch.group.tolist(), batch.queries, batch.candidates, batch.mask, strict=True
    ):
        kind, number = (
            ("old", data.query_id(group)[1:]) if data.query_id(group)[0] == "o" else ("new", data.query_id(group)[1:])
        )
        assert query == f"{kind} query {number}"
        assert all(bool(text) == there for text, there in zip(texts, mask.tolist(), strict=True))
        is_old = group >= data.store.num_groups
        assert all(text.startswith("old") == is_old for text in texts if text)
    assert len({len(texts) for texts in batch.candidates}) == 1


@pytest.mark.parametrize(("options", "message"), [
    ({"negatives": "all"}, "datamodule.negatives: all cannot be combined with replay"),
    ({"batch_size": 1}, "datamodule.batch_size: one group cannot be shared by new and old data"),
])  # fmt: skip
def test_replay_that_cannot_work_is_refused(new: Path, old: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GroupedFeatures(str(new), replay=Replay(str(old)), **options)


def test_an_old_store_with_other_vectors_is_refused(new: Path, tmp_path: Path) -> None:
    other = small_store(tmp_path / "other", dim=8)
    with pytest.raises(ConfigError, match=r"datamodule.replay.path: .*feature_dim is 8 and 16"):
        GroupedFeatures(str(new), replay=Replay(str(other)))
