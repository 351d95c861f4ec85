"""Fit: training a ranker on stored features, against plain PyTorch on features in memory."""

import csv
import io
import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import seed_everything

from benchmarks import machine, plain_loop
from benchmarks.comparison import Comparison, Ratio, in_own_process, in_turns
from benchmarks.plain_loop import Group, Memory, PlainListRanker, StackedGroups
from benchmarks.workload import MBPP, Workload, write_store
from datamodules.grouped_features import GroupedFeatures
from registry import RANKERS, RunConfig, schema
from training.run import RUN_DIR, train

PAPER = {
    "source": "arXiv 2510.21883, table 2",
    "seconds": {"ListRanker, CPU": 67, "PointRanker, CPU": 71, "ListRanker, A100": 44, "PointRanker, A100": 42},
}
WAYS = {
    "fit": "train.py's run of list_ranker until it is fitted: store opened and verified, groups drawn, logged, saved",
    "fit point_ranker": "the same with point_ranker",
    "bare loop": "plain PyTorch on fp16 tensors in memory, groups drawn beforehand; each slot projected",
    "bare loop, thrifty": "the same, each row projected once a step",
    "ordinary": "plain PyTorch, DataLoader with 2 workers over a Dataset of stacked fp32 features",
    "ordinary, fp16": "the same with stacked fp16 features",
}
RATIOS = [
    Ratio("fit", "bare loop", at_most=1.3),
    Ratio("fit", "bare loop, thrifty", at_most=1.3),
    Ratio("ordinary", "fit", at_least=5),
    Ratio("ordinary, fp16", "fit"),
]
SEED = 0

Found = tuple[float, list[float]]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5, *, apart: bool = True) -> Comparison:
    """Train on the same groups in the same order from the same weights, and compare the time.

    Args:
        data: Folder for the store.
        workload: Its size.
        repeats: How often each way runs.
        apart: Run each in a process of its own.

    Raises:
        AssertionError: If the losses of two ways differ by more than rounding.
    """
    store = write_store(workload, data)
    call: Callable[..., Any] = in_own_process if apart else lambda function, *arguments: function(*arguments)
    functions = {
        "fit": partial(_fit, "list_ranker"),
        "fit point_ranker": partial(_fit, "point_ranker"),
        "bare loop": partial(_plain, "slot"),
        "bare loop, thrifty": partial(_plain, "row"),
        "ordinary": partial(_plain, "stacked fp32"),
        "ordinary, fp16": partial(_plain, "stacked fp16"),
    }
    ways = {name: partial(call, function, workload, store) for name, function in functions.items()}
    found: dict[str, list[Found]] = in_turns(ways, repeats)
    for name in ("bare loop", "bare loop, thrifty", "ordinary", "ordinary, fp16"):
        for (_, expected), (_, losses) in zip(found["fit"], found[name], strict=True):
            torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    seconds = {name: [one for one, _ in values] for name, values in found.items()}
    facts = {
        "workload": asdict(workload),
        "losses": found["fit"][0][1],
        "floor": floor(workload, store),
        "paper": PAPER,
    }
    question = "how long is one epoch of ListRanker?"
    return Comparison("fit", question, WAYS, seconds, RATIOS, facts)


def floor(workload: Workload, store: Path) -> dict[str, float]:
    """Seconds that the mathematics alone would take at the machine's best rates, one after the other.

    Each needed vector is read, gathered, widened to fp32 and read by two matrix products; the block's products are
    three times those of its forward pass.
    """
    steps = _steps(_datamodule(workload, store))
    dim, width = workload.feature_dim, 64
    rows = sum(len(step.query.unique()) + len(step.candidates.unique()) for step in steps)
    vectors = sum(step.candidates.numel() + len(step.query) for step in steps)
    operations = rows * 2 * (2 * dim * width) + vectors * 3 * (2 * 12 * width**2)
    moved = rows * dim * (2 + 2 + 2 + 4 + 4 + 4)
    rate, bandwidth = machine.multiplications_per_second(), machine.bytes_per_second()
    return {
        "gflop": operations / 1e9,
        "gflop_per_second": rate / 1e9,
        "gigabytes": moved / 1e9,
        "gigabytes_per_second": bandwidth / 1e9,
        "seconds": operations / rate + moved / bandwidth,
    }


def _fit(ranker: str, workload: Workload, store: Path) -> Found:
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
        with (run.path / "csv" / "metrics.csv").open() as file:
            losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    return run.metrics["seconds"]["fit"], losses


def _plain(way: str, workload: Workload, store: Path) -> Found:
    _warm_up()
    seed_everything(SEED, verbose=False)
    data = _datamodule(workload, store)
    ranker = RANKERS.build("list_ranker", feature_dim=workload.feature_dim)
    model = PlainListRanker(workload.feature_dim, ranker.state_dict())
    steps = _steps(data)
    memory = Memory(
        data.store.query_features(torch.arange(data.store.num_groups)),
        data.store.candidate_features(torch.arange(data.store.num_candidates)),
    )
    del data, ranker
    started = time.perf_counter()
    if way == "slot":
        batches = plain_loop.projecting_each_slot(model, memory, steps)
    elif way == "row":
        batches = plain_loop.projecting_each_row(model, memory, steps)
    else:
        groups = StackedGroups(memory, steps, torch.float32 if way == "stacked fp32" else torch.float16)
        batches = plain_loop.projecting_stacked(model, groups, workload.batch_size)
    losses = plain_loop.train(model, batches)
    return time.perf_counter() - started, losses


def _warm_up() -> None:
    """Let PyTorch import what it imports at the first step of an optimizer."""
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).step()


def _options(workload: Workload) -> dict[str, Any]:
    names = ("num_candidates", "groups_per_query", "batch_size")
    return {name: value for name, value in asdict(workload).items() if name in names}


def _datamodule(workload: Workload, store: Path) -> GroupedFeatures:
    return GroupedFeatures(str(store), seed=SEED, **_options(workload), verify=False)


def _steps(data: GroupedFeatures) -> list[Group]:
    """The groups that an epoch of the datamodule draws, by index."""
    return [Group(batch.group, data.store.candidate[batch.slot], batch.labels) for batch in data.train_dataloader()]
