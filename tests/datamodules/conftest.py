"""A store with everything that can make drawing go wrong, and the same store as plain Python lists."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter

SIZES = [0, 1, 2, 3, 5, 8, 9, 4, 12, 7, 6, 10] * 5
NUM_CANDIDATES, DIM = 90, 3


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> GroupStore:
    """60 queries of 0 to 12 slots; invalid, unlabelled and injected ones; candidates shared, in two shards.

    A vector names its row: candidate r is (r, r / 2, -1), the query of group g is (g, 0, 1).
    """
    draw = torch.Generator().manual_seed(3)
    num_slots = sum(SIZES)
    label = torch.randint(0, 3, (num_slots,), generator=draw).float()
    label[torch.rand(num_slots, generator=draw) < 0.1] = torch.nan
    candidate = torch.cat([torch.randperm(NUM_CANDIDATES, generator=draw)[:size] for size in SIZES])
    rows, places = torch.arange(NUM_CANDIDATES).float(), torch.arange(len(SIZES)).float()
    candidates = torch.stack([rows, rows / 2, -torch.ones_like(rows)], dim=1).unsqueeze(1)
    queries = torch.stack([places, torch.zeros_like(places), torch.ones_like(places)], dim=1).unsqueeze(1)
    path = tmp_path_factory.mktemp("stores") / "ragged"
    with GroupStoreWriter(path, feature_dim=DIM, depths=[None], dtype="float16", settings={}) as writer:
        for first in (0, 50):
            part = candidates[first : first + 50]
            writer.add_candidates(part, [f"candidate {first + row}" for row in range(len(part))])
        writer.add_groups(
            ids=[f"q{place}" for place in range(len(SIZES))],
            texts=[f"query {place}" for place in range(len(SIZES))],
            features=queries,
            offsets=torch.tensor([0, *SIZES]).cumsum(0),
            candidate=candidate,
            label=label,
            valid=torch.rand(num_slots, generator=draw) > 0.1,
            injected=torch.rand(num_slots, generator=draw) < 0.1,
            slot_ids=[f"c{row}" for row in candidate.tolist()],
            split=[("train", "train", "val", "train", "test")[place % 5] for place in range(len(SIZES))],
        )
        return GroupStore.open(writer.finish())


@pytest.fixture(scope="session")
def usable(store: GroupStore) -> list[list[int]]:
    """Loop over the store for the valid and labelled slots of each group."""
    bounds = store.offsets.tolist()
    return [
        [slot for slot in range(start, end) if bool(store.valid[slot]) and float(store.label[slot]) >= 0]
        for start, end in pairwise(bounds)
    ]


@pytest.fixture
def store_path(store: GroupStore) -> Path:
    """Where the store is."""
    return store.path
