"""Epochs: one epoch on the same groups in the same order from the same weights, by our code and by plain loops."""

import csv
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import seed_everything

from benchmarks.speed.training import plain_loop
from benchmarks.speed.training.plain_loop import (
    Group,
    Memory,
    PlainListRanker,
    Projected,
    StackedFromFiles,
    StackedGroups,
)
from benchmarks.speed.training.workload import Workload
from datamodules.grouped_features import GroupedFeatures
from registry import RANKERS, RunConfig, schema
from training.memory import keep_freed_memory
from training.run import RUN_DIR, train

SEED = 0


@dataclass(frozen=True)
class Epoch:
    """The seconds of an epoch, and the loss of each step."""

    seconds: float
    losses: list[float]


def fitted(ranker: str, workload: Workload, store: Path) -> Epoch:
    """A run of train.py up to the end of fit."""
    _warm_up()
    os.environ.pop(RUN_DIR, None)
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        options = {
            "ranker": ranker,
            "datamodule": {"name": "grouped_features", "path": str(store), **_options(workload)},
            "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1},
            "seed": SEED,
            "runs": folder,
        }
        run = train(RunConfig(**schema.bind(RunConfig, options, "")), "fit")
        with next(run.path.rglob("metrics.csv")).open() as file:
            losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    return Epoch(run.metrics["seconds"]["fit"], losses)


def bare(rows_once: bool, workload: Workload, store: Path) -> Epoch:
    """A loop over index tensors and features in memory."""
    memory, steps = in_memory(workload, store)
    project = plain_loop.projecting_each_row if rows_once else plain_loop.projecting_each_slot
    return _trained(workload, lambda model: project(model, memory, steps))


def ordinary(dtype: torch.dtype, workload: Workload, store: Path) -> Epoch:
    """A DataLoader that stacks each group's features from memory."""
    batches = StackedGroups(*in_memory(workload, store), dtype).in_batches(workload.batch_size)
    return _trained(workload, lambda model: plain_loop.projecting_stacked(model, batches))


def ordinary_from_files(workload: Workload, store: Path) -> Epoch:
    """A DataLoader that stacks each group's features from its query's file."""
    with TemporaryDirectory() as folder:
        batches = StackedFromFiles(*in_memory(workload, store), Path(folder)).in_batches(workload.batch_size)
        return _trained(workload, lambda model: plain_loop.projecting_stacked(model, batches))


def batches(workload: Workload, store: Path) -> Epoch:
    """Our batches without training: open and verify the store, draw groups, gather features."""
    keep_freed_memory()
    return Epoch(_seconds(lambda: datamodule(workload, store, verify=True).train_dataloader()), [])


def ordinary_batches(workload: Workload, store: Path) -> Epoch:
    """The batches of the ordinary way without training."""
    groups = StackedGroups(*in_memory(workload, store))
    return Epoch(_seconds(lambda: groups.in_batches(workload.batch_size)), [])


def datamodule(workload: Workload, store: Path, verify: bool = False) -> GroupedFeatures:
    """The datamodule of a run."""
    return GroupedFeatures(str(store), seed=SEED, verify=verify, **_options(workload))


def steps_of(data: GroupedFeatures) -> list[Group]:
    """The groups that an epoch of the datamodule draws, by index."""
    return [Group(batch.group, data.store.candidate[batch.slot], batch.labels) for batch in data.train_dataloader()]


def in_memory(workload: Workload, store: Path) -> tuple[Memory, list[Group]]:
    """All vectors of the store, and the groups of an epoch."""
    data = datamodule(workload, store)
    queries = data.store.query_features(torch.arange(data.store.num_groups))
    return Memory(queries, data.store.candidate_features(torch.arange(data.store.num_candidates))), steps_of(data)


def _trained(workload: Workload, batches: Callable[[PlainListRanker], Iterator[Projected]]) -> Epoch:
    _warm_up()
    seed_everything(SEED, verbose=False)
    ranker = RANKERS.build("list_ranker", feature_dim=workload.feature_dim)
    model = PlainListRanker(workload.feature_dim, ranker.state_dict())
    started = time.perf_counter()
    losses = plain_loop.train(model, batches(model))
    return Epoch(time.perf_counter() - started, losses)


def _seconds(batches: Callable[[], Iterable[Any]]) -> float:
    started = time.perf_counter()
    for _ in batches():
        pass
    return time.perf_counter() - started


def _warm_up() -> None:
    """Execute a first optimizer step, in which PyTorch imports modules."""
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).step()


def _options(workload: Workload) -> dict[str, Any]:
    names = ("num_candidates", "groups_per_query", "batch_size")
    return {name: value for name, value in asdict(workload).items() if name in names}
