"""Alike candidates are counted in groups with different labels; only the vectors of these are read."""

import io
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from rich.console import Console

from console.progress import WorkProgress
from features.building import alike
from features.building.alike import Alike
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter

NAN = float("nan")


def store(path: Path, vectors: list[list[float]], labels: list[list[float]]) -> GroupStore:
    """One with a group for each list of labels, whose candidates come in order."""
    sizes = torch.tensor([0, *map(len, labels)])
    slots = int(sizes.sum())
    with GroupStoreWriter(path, feature_dim=2, depths=[None], dtype="float32", settings={}) as writer:
        writer.add_candidates(torch.tensor(vectors).unsqueeze(1), [f"text {row}" for row in range(len(vectors))])
        writer.add_groups(
            ids=[f"q{row}" for row in range(len(labels))],
            texts=["query"] * len(labels),
            features=torch.zeros(len(labels), 1, 2),
            offsets=sizes.cumsum(0),
            candidate=torch.arange(slots),
            label=torch.tensor([float(label) for group in labels for label in group]),
            slot_ids=[str(slot) for slot in range(slots)],
        )
        return GroupStore.open(writer.finish())


def test_zeros_of_either_sign_are_one_vector_and_missing_labels_none(tmp_path: Path) -> None:
    vectors = [[0.0, 1.0], [-0.0, 1.0], [1.0, 2.0], [2.0, 1.0], [3.0, 3.0], [3.0, 3.0], [4.0, 4.0], [4.0, 4.0]]
    found = Alike.of(store(tmp_path / "s", vectors, [[1, 0], [1, 0], [1, NAN], [1, 1]]))
    assert found == Alike(num_groups=1, num_labelled=2)


def test_vectors_of_groups_without_different_labels_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = store(tmp_path / "s", [[1.0, float(row)] for row in range(7)], [[1, 1], [0, 1, NAN], [NAN, 0]])
    read: list[int] = []

    def features(self: GroupStore, index: torch.Tensor) -> torch.Tensor:
        read.extend(index.tolist())
        return torch.ones(len(index), 2)

    monkeypatch.setattr(GroupStore, "candidate_features", features)
    assert Alike.of(built) == Alike(num_groups=1, num_labelled=1)
    assert read == [2, 3]


def test_long_comparing_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, output = count(step=20), io.StringIO()
    shown = partial(WorkProgress, console=Console(file=output), clock=lambda: float(next(clock)))
    monkeypatch.setattr(alike, "WorkProgress", shown)
    monkeypatch.setattr(alike, "_GROUPS", 1)
    Alike.of(store(tmp_path / "s", [[1.0, 1.0]] * 6, [[1, 0], [1, 0], [1, 0]]))
    assert output.getvalue().startswith("Compared 1 of 3 groups")
