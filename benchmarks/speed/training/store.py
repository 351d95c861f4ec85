"""Store: opens a group store and reads all of it, against reading its files."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from benchmarks.comparison import Comparison, Ratio, in_turns, seconds_of
from benchmarks.speed.training.workload import MBPP, Workload, write_store
from ranking.stores.group_store import GroupStore

WAYS = {
    "files": "read each file of the store into memory",
    "store": "open the store and gather all of its vectors into memory",
    "store, verified": "the same, its hashes checked",
    "open": "open the store",
    "open, verified": "open the store, its hashes checked",
    "random rows": "gather all vectors of an open store in random order, 8,192 at a time",
}
RATIOS = [Ratio("store", "files", at_most=1.5), Ratio("store, verified", "files"), Ratio("random rows", "files")]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 9) -> Comparison:
    """Read the same bytes in each way, from files that are already in the operating system's cache.

    Args:
        data: Folder for the store.
        workload: The size of the store.
        repeats: How often each way runs.

    Raises:
        AssertionError: If the store returns other vectors than its files have.
    """
    path = write_store(workload, data)
    store = GroupStore.open(path)
    order = torch.randperm(store.num_candidates, generator=torch.Generator().manual_seed(0))
    files = read_files(path)
    expected = torch.cat([load(files[name])["features"] for name in sorted(files) if name.startswith("candidates")])
    assert torch.equal(read_store(path, verify=True), expected[:, 0])
    assert all(torch.equal(store.candidate_features(rows), expected[rows, 0]) for rows in order.split(8192)[:2])
    size = sum(map(len, files.values()))
    del files, expected
    works: dict[str, Callable[[], Any]] = {
        "files": partial(read_files, path),
        "store": partial(read_store, path, verify=False),
        "store, verified": partial(read_store, path, verify=True),
        "open": partial(GroupStore.open, path),
        "open, verified": partial(GroupStore.open, path, verify=True),
        "random rows": lambda: [store.candidate_features(rows) for rows in order.split(8192)],
    }
    seconds = in_turns({name: partial(seconds_of, work) for name, work in works.items()}, repeats)
    rates = {name: size / 1e9 / sorted(seconds[name])[repeats // 2] for name in works if name != "open"}
    facts = {"workload": asdict(workload), "gigabytes": size / 1e9, "gigabytes_per_second": rates}
    return Comparison("store", "what does a store cost over plain files?", WAYS, seconds, RATIOS, facts)


def read_files(path: Path) -> dict[str, bytes]:
    """The content of each file in a folder."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def read_store(path: Path, verify: bool) -> torch.Tensor:
    """Read all vectors of candidates and queries; return those of candidates."""
    store = GroupStore.open(path, verify=verify)
    store.query_features(torch.arange(store.num_groups))
    return store.candidate_features(torch.arange(store.num_candidates))
