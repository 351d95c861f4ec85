"""Pool contexts: centroids of a pool and of all parts of its splits, computed once and kept beside it."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from rankers.aggregators import Aggregator
from ranking.candidate_pool import CandidatePool
from ranking.partitions import Partitions
from ranking.pool_batch import Contexts
from ranking.store_files import write_file

_VERSION = 1


def pool_contexts(
    pool: CandidatePool,
    partitions: Partitions | None,
    aggregator: Aggregator,
    described: Mapping[str, Any],
    console: Console | None = None,
) -> Contexts:
    """The contexts of all parts, in the order of `Partitions.index`, and after them that of the whole pool.

    Those of a split are one file, written whole or not at all, in `<pool>.contexts` beside the pool: what was computed
    before, with the same pool, parts and settings, is read.

    Args:
        pool: The candidates.
        partitions: Its splits; None for the whole pool alone.
        aggregator: What summarises a part.
        described: The aggregator's node in full: all that its summaries depend on.
        console: Where to show progress; stderr by default.
    """
    folder = pool.path.parent / f"{pool.path.name}.contexts"
    folder.mkdir(exist_ok=True)
    whole = {"version": _VERSION, "aggregator": described, "candidates": pool.manifest["shards"]["candidates"]}
    files = [folder / f"{_digest(whole)}-whole.safetensors"]
    if partitions is not None:
        parts = {name: getattr(partitions, name) for name in ("num_candidates", "num_partitions", "seed")}
        splits = _digest({**whole, "partitions": parts})
        files[:0] = [folder / f"{splits}-split{split}.safetensors" for split in range(partitions.num_splits)]

    def summarise(split: int, part: int) -> Contexts:
        if partitions is None or split == partitions.num_splits:
            return aggregator.summarise_pool(pool, None, 0)
        return aggregator.summarise_pool(
            pool, partitions.rows(split, part), hash((partitions.seed, split, part)) % 2**31
        )

    counts = [*(partitions.num_partitions for _ in files[:-1]), 1] if partitions else [1]
    shape = aggregator.num_centroids, pool.feature_dim
    console = console or Console(stderr=True)
    columns = (TextColumn("Centroids"), BarColumn(), MofNCompleteColumn(), TextColumn("parts"), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    found = []
    with bar, (folder / ".lock").open("w") as lock:
        # Processes of one run come here together: one computes, the others read.
        fcntl.flock(lock, fcntl.LOCK_EX)
        task = bar.add_task("parts", total=sum(counts))
        for split, (file, count) in enumerate(zip(files, counts, strict=True)):
            found.append(
                _read(file, (count, *shape)) or _write(file, count, lambda part, s=split: summarise(s, part), bar, task)
            )
            bar.update(task, completed=sum(counts[: split + 1]))
    return Contexts(*(torch.cat(each) for each in zip(*found, strict=True)))


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _write(file: Path, count: int, summarise: Callable[[int], Contexts], bar: Progress, task: Any) -> Contexts:
    found = []
    for part in range(count):
        found.append(summarise(part))
        bar.advance(task)
    contexts = Contexts(*(torch.cat(each).cpu().contiguous() for each in zip(*found, strict=True)))
    write_file(file, save(contexts._asdict()))
    return contexts


def _read(file: Path, shape: tuple[int, int, int]) -> Contexts | None:
    """What the file holds; None if it is not there or not whole."""
    if not file.is_file():
        return None
    try:
        contexts = Contexts(**load_file(file))
    except (SafetensorError, TypeError, OSError):
        return None
    return contexts if contexts.centroids.shape == shape else None
