import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.epoch_loader import EpochLoader
from datamodules.grouped_features import GroupedFeatures
from ranking.batch import FeatureBatch
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import DATAMODULES, ConfigError

SPLIT_OF = ("train", "train", "val", "train", "test")


def datamodule(path: Path, **options: Any) -> GroupedFeatures:
    return GroupedFeatures(str(path), **{"num_candidates": 5, "batch_size": 16, "groups_per_query": 3, **options})


def collected(loader: EpochLoader, epoch: int = 0) -> dict[str, torch.Tensor]:
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    batches: list[FeatureBatch] = list(loader)
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in ("group", "slot", "labels")}


def without_splits(path: Path, texts: list[str]) -> Path:
    count = len(texts)
    with GroupStoreWriter(path, feature_dim=2, depths=[0.5, 1.0], dtype="float32", settings={}) as writer:
        writer.add_candidates(torch.randn(2, 2, 2), ["a", "b"])
        writer.add_groups(
            ids=[f"q{place}" for place in range(count)],
            texts=texts,
            features=torch.zeros(count, 2, 2),
            offsets=2 * torch.arange(count + 1),
            candidate=torch.tensor([0, 1] * count),
            label=torch.tensor([1.0, 0.0] * count),
            slot_ids=["a", "b"] * count,
        )
        return writer.finish()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_is_a_function_of_its_seed_and_number(store_path: Path, num_workers: int) -> None:
    data = datamodule(store_path, num_workers=num_workers, seed=4)
    loader, alone = data.train_dataloader(), datamodule(store_path, seed=4).train_dataloader()
    for epoch in (0, 1):
        found, expected = collected(loader, epoch), collected(alone, epoch)
        assert all(torch.equal(found[name], expected[name]) for name in found)
    assert not torch.equal(collected(alone, 0)["slot"], collected(alone, 1)["slot"])
    other = collected(datamodule(store_path, seed=5).train_dataloader())
    assert not torch.equal(collected(alone, 0)["slot"], other["slot"])


def test_a_split_holds_its_own_queries_and_no_others(
    store_path: Path, store: GroupStore, usable: list[list[int]]
) -> None:
    data = datamodule(store_path, drop_unordered=False)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    for name, loader in loaders.items():
        shown = [
            group
            for group in range(store.num_groups)
            if SPLIT_OF[group % 5] == name and any(not bool(store.injected[slot]) for slot in usable[group])
        ]
        assert data.num_queries(name) == len(shown)
        assert collected(loader)["group"].unique().tolist() == shown


def test_injected_candidates_are_for_training_only(store_path: Path, store: GroupStore) -> None:
    data = datamodule(store_path, num_candidates=None)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        slots = collected(loader)["slot"]
        assert not store.injected[slots[slots >= 0]].any()
    slots = collected(data.train_dataloader())["slot"]
    assert store.injected[slots[slots >= 0]].any()


def test_evaluation_keeps_queries_that_no_order_can_be_learnt_from(store_path: Path) -> None:
    labels = collected(datamodule(store_path).test_dataloader())["labels"]
    assert bool((labels == labels[:, :1]).all(dim=1).any())


def test_evaluation_draws_the_same_groups_whatever_the_seed(store_path: Path) -> None:
    first, second = (collected(datamodule(store_path, seed=seed, eval_draws=3).val_dataloader()) for seed in (0, 1))
    assert torch.equal(first["slot"], second["slot"])
    assert set(torch.bincount(first["group"])[first["group"]].tolist()) == {3}
    other = collected(datamodule(store_path, eval_seed=1, eval_draws=3).val_dataloader())
    assert not torch.equal(first["slot"], other["slot"])


def test_without_a_number_of_candidates_each_query_shows_all_it_has(store_path: Path, usable: list[list[int]]) -> None:
    found = collected(datamodule(store_path, num_candidates=None, drop_unordered=False).train_dataloader())
    for group, slots in zip(found["group"].tolist(), found["slot"].tolist(), strict=True):
        assert [slot for slot in slots if slot >= 0] == usable[group]


def test_a_training_epoch_goes_on_in_its_middle(store_path: Path) -> None:
    loader = datamodule(store_path).train_dataloader()
    whole = [batch.slot for batch in loader]
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    resumed = datamodule(store_path).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    rest = [batch.slot for batch in resumed]
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(found, expected) for found, expected in zip(rest, whole[2:], strict=True))


def test_queries_without_a_split_get_one_by_their_text(tmp_path: Path) -> None:
    texts = [f"what is {place % 150}?" for place in range(300)]
    data = GroupedFeatures(str(without_splits(tmp_path / "store", texts)), depth=1.0, split_shares=(0.5, 0.3, 0.2))
    expected: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for group, text in enumerate(texts):
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        expected["train" if share < 0.5 else "val" if share < 0.8 else "test"].append(group)
    assert {name: data.num_queries(name) for name in expected} == {
        name: len(groups) for name, groups in expected.items()
    }
    assert collected(data.test_dataloader())["group"].tolist() == expected["test"]


def test_a_depth_has_to_be_one_of_the_stored(tmp_path: Path) -> None:
    path = str(without_splits(tmp_path / "store", [f"what is {place}?" for place in range(50)]))
    half, last = (next(iter(GroupedFeatures(path, depth=depth).val_dataloader())) for depth in (0.5, 1.0))
    assert not torch.equal(half.unique_candidates, last.unique_candidates)
    for depth, problem in (
        (None, "several depths"),
        (0.6, "no depth 0.6"),
        ([0.5, 0.6, 0.7], "no depth 0.6, 0.7"),
        ([], "names no depth"),
    ):
        with pytest.raises(ConfigError, match=problem):
            GroupedFeatures(path, depth=depth)


def test_several_depths_are_one_vector_that_a_batch_holds_once(tmp_path: Path) -> None:
    path = str(without_splits(tmp_path / "store", [f"what is {place}?" for place in range(50)]))
    both = GroupedFeatures(path, depth=[1.0, 0.5])
    assert both.facts == {"feature_dim": 4, "num_depths": 2}
    last, half = (next(iter(GroupedFeatures(path, depth=depth).train_dataloader())) for depth in (1.0, 0.5))
    batch = next(iter(both.train_dataloader()))
    assert batch.unique_candidates.shape == (2, 4)
    assert torch.equal(batch.unique_candidates, torch.cat([last.unique_candidates, half.unique_candidates], dim=1))
    assert torch.equal(batch.query, torch.cat([last.query, half.query], dim=1))
    assert torch.equal(batch.slot, last.slot)


def test_a_split_that_would_be_empty_is_refused(tmp_path: Path) -> None:
    path = without_splits(tmp_path / "store", ["the only query"])
    with pytest.raises(ConfigError, match="no labelled query for"):
        GroupedFeatures(str(path), depth=0.5)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"batch_size": 0}, "datamodule.batch_size"),
        ({"groups_per_query": 0}, "datamodule.groups_per_query"),
        ({"num_candidates": 1}, "datamodule.num_candidates"),
        ({"split_shares": [0.0, 0.0, 0.0]}, "datamodule.split_shares"),
        ({"split_shares": [0.8, 0.1, 0.2]}, "datamodule.split_shares: expected three .* sum is 1, got .* the sum 1.1"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(store_path: Path, options: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        DATAMODULES.build({"name": "grouped_features", "path": str(store_path), **options}, path="datamodule")


def test_every_batch_has_what_sampling_knew_of_its_candidates(tmp_path: Path) -> None:
    path, sampled = tmp_path / "sampled", torch.arange(60)
    known = {
        "answer": sampled % 7,
        "log_probability": -sampled / 3,
        "num_tokens": sampled,
        "self_certainty": sampled / 9,
    }
    with GroupStoreWriter(path, feature_dim=2, depths=[0.5], dtype="float32", settings={}) as writer:
        writer.add_candidates(torch.randn(60, 1, 2), ["a text"] * 60)
        writer.add_groups(
            ids=[f"q{place}" for place in range(15)],
            texts=["a query"] * 15,
            features=torch.zeros(15, 1, 2),
            offsets=4 * torch.arange(16),
            candidate=sampled,
            label=(sampled % 2).float(),
            slot_ids=["a", "b", "c", "d"] * 15,
            split=["train", "val", "test"] * 5,
            known=known,
        )
        writer.finish()
    data = GroupedFeatures(str(path), num_candidates=3, batch_size=4)
    assert all(dataclasses.asdict(data.known)[name] for name in ("num_tokens", "self_certainties", "answers"))
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for batch in loader:
            for name, values in known.items():
                assert torch.equal(getattr(batch, name)[batch.mask], values[batch.slot[batch.mask]].to(values.dtype))


def test_what_a_ranker_can_know_beforehand(store_path: Path) -> None:
    data = datamodule(store_path)
    assert data.facts == {"feature_dim": 3, "num_depths": 1}
    assert [data.query_id(group) for group in (7, 2)] == ["q7", "q2"]
    assert not data.shared_negatives
    assert datamodule(store_path, negatives="all").shared_negatives
