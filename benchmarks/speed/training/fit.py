"""Fit: training a ranker on stored features, against plain PyTorch on features in memory."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.comparison import Comparison, Ratio, in_own_process, in_turns
from benchmarks.speed.training import epochs
from benchmarks.speed.training.epochs import Epoch
from benchmarks.speed.training.workload import MBPP, Workload, write_store

PAPER = {
    "source": "arXiv 2510.21883: table 2, loading included; appendix F for loading alone, with 8 threads",
    "seconds": {"ListRanker, CPU": 67, "PointRanker, CPU": 71, "ListRanker, A100": 44, "PointRanker, A100": 42},
    "loading_seconds": 31,
}
WAYS: dict[str, tuple[str, Callable[[Workload, Path], Epoch]]] = {
    "fit": (
        "train.py's run of list_ranker until it is fitted: store opened and verified, groups drawn, logged, saved",
        partial(epochs.fitted, "list_ranker"),
    ),
    "fit point_ranker": ("the same with point_ranker", partial(epochs.fitted, "point_ranker")),
    "bare loop": (
        "plain PyTorch, fp16 tensors in memory, groups drawn beforehand; each slot projected",
        partial(epochs.bare, False),
    ),
    "bare loop, thrifty": ("the same, each row projected once a step", partial(epochs.bare, True)),
    "ordinary": (
        "plain PyTorch, DataLoader with 2 workers, a Dataset that stacks a group's fp32 features from memory",
        partial(epochs.ordinary, torch.float32),
    ),
    "ordinary, fp16": ("the same with fp16 features", partial(epochs.ordinary, torch.float16)),
    "ordinary, files": ("the same with fp32 features from a file for each query", epochs.ordinary_from_files),
    "batches": ("our batches without training: store opened and verified, groups drawn, gathered", epochs.batches),
    "ordinary batches": ("the ordinary way's batches without training", epochs.ordinary_batches),
}
SAME = ("bare loop", "bare loop, thrifty", "ordinary", "ordinary, fp16", "ordinary, files")
RATIOS = [
    Ratio("fit", "bare loop", at_most=1.3),
    Ratio("fit", "bare loop, thrifty", at_most=1.3),
    Ratio("ordinary", "fit", at_least=5),
    Ratio("ordinary, fp16", "fit"),
    Ratio("ordinary, files", "fit"),
    Ratio("ordinary batches", "batches"),
]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5, *, apart: bool = True) -> Comparison:
    """Train on the same groups in the same order from the same weights, and compare the time.

    Args:
        data: Folder for the store.
        workload: The size of the store and of training.
        repeats: How often each way runs.
        apart: Run each in a process of its own.

    Raises:
        AssertionError: If the losses of two ways differ by more than rounding.
    """
    store = write_store(workload, data)
    works = {name: partial(work, workload, store) for name, (_, work) in WAYS.items()}
    found = in_turns({name: partial(in_own_process, work) for name, work in works.items()} if apart else works, repeats)
    for name in SAME:
        for ours, plain in zip(found["fit"], found[name], strict=True):
            torch.testing.assert_close(torch.tensor(plain.losses), torch.tensor(ours.losses), rtol=1e-4, atol=1e-5)
    facts = {
        "workload": asdict(workload),
        "losses": found["fit"][0].losses,
        "floor": floor(workload, store),
        "paper": PAPER,
    }
    return Comparison(
        name="fit",
        question="how long is one epoch of ListRanker?",
        ways={name: what for name, (what, _) in WAYS.items()},
        seconds={name: [epoch.seconds for epoch in values] for name, values in found.items()},
        ratios=RATIOS,
        facts=facts,
    )


def floor(workload: Workload, store: Path) -> dict[str, float]:
    """Seconds that the computation alone would take at the machine's highest rates, one step after the other.

    Each needed vector is read, gathered, converted to fp32, and read by two matrix products; the block's products count
    three times those of its forward pass.
    """
    steps = epochs.steps_of(epochs.datamodule(workload, store))
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
