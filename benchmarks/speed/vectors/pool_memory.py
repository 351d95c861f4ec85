"""Pool memory: ranks a pool on disk that is too large for memory, for batches of queries."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import machine
from benchmarks.comparison import Comparison, Ratio, in_own_process, in_turns, seconds_of
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.candidate_pool_writer import CandidatePoolWriter
from ranking.vectors.search import search
from registry import ConfigError

_EVERY = 0.01  # seconds between two measurements of the memory in use
_KINDS = {"RssAnon": "anonymous", "RssFile": "mapped"}
_READ = "read"


@dataclass(frozen=True)
class Case:
    """A pool in fp16 with the size of Rec-Clothing, and the work to do on it.

    Args:
        num_candidates: N, the number of candidates, which are random vectors.
        dim: Size of the vectors.
        batches: Numbers of queries in a batch.
        k: Number of candidates to find, in addition to the rank of one candidate per query.
        rows: Number of rows of a shard.
    """

    num_candidates: int = 6_800_000
    dim: int = 1024
    batches: tuple[int, ...] = (1, 32, 256)
    k: int = 100
    rows: int = 1 << 18


FULL, SMALL = Case(), Case(3000, 16, (1, 4), 10, 700)


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5, *, apart: bool = True) -> Comparison:
    """Rank the whole pool for each batch in a fresh process, and read its files for comparison.

    Args:
        data: Folder for the pool, 14 GB.
        workload: The tiny one stands for a small pool.
        repeats: How often each way runs.
        apart: Run each in a process of its own.

    Raises:
        ConfigError: If the folder does not have enough space.
    """
    case = SMALL if workload == TINY else FULL
    path = write_pool(case, data)
    files = sorted(path.glob("candidates-*.safetensors"))
    run = in_own_process if apart else _here
    ways = {_READ: "read the files of the candidates from start to end"}
    works: dict[str, Any] = {_READ: partial(seconds_of, partial(_read, files))}
    for batch in case.batches:
        ways[_name(batch)] = f"the best {case.k} of the pool and the rank of one candidate for each query"
        works[_name(batch)] = partial(run, rank, path, batch, case.k)
    cold = _name(case.batches[1])
    _forget(files)
    from_disk = {_READ: works[_READ]()}
    _forget(files)
    from_disk[cold] = works[cold]()["seconds"]
    _read(files)
    found = in_turns(works, repeats)
    seconds = {name: [each if name == _READ else each["seconds"] for each in values] for name, values in found.items()}
    size, rate = sum(file.stat().st_size for file in files), machine.multiplications_per_second()
    facts = {
        "case": asdict(case),
        "gigabytes": size / 1e9,
        "gigabytes_per_second_read": size / 1e9 / median(seconds[_READ]),
        "seconds_with_nothing_of_the_files_in_memory": from_disk,
        "peak_gigabytes": {name: _peaks(values) for name, values in found.items() if name != _READ},
        "seconds_a_query": {_name(batch): median(seconds[_name(batch)]) / batch for batch in case.batches},
        "seconds_of_products_at_best": {
            _name(batch): 2 * case.num_candidates * case.dim * batch / rate for batch in case.batches
        },
    }
    ratios = [Ratio(_name(batch), _READ) for batch in case.batches]
    question = f"what does it take to rank {case.num_candidates:,} candidates on disk?"
    return Comparison("pool_memory", question, ways, seconds, ratios, facts)


def write_pool(case: Case, data: Path) -> Path:
    """Write a pool of random unit vectors; reuse or continue that of an earlier call.

    Raises:
        ConfigError: If there is not enough space.
    """
    path = data / f"pool-{case.num_candidates}x{case.dim}"
    if path.exists():
        return path
    data.mkdir(parents=True, exist_ok=True)
    needed, free = 2.2 * case.num_candidates * case.dim, shutil.disk_usage(data).free
    if needed > free:
        problem = f"pool_memory needs {needed / 1e9:.0f} GB for its pool; {free / 1e9:.0f} GB are free."
        raise ConfigError(str(data), problem, cure="--data FOLDER with more space")
    vectors = torch.randn(case.rows, case.dim, generator=torch.Generator().manual_seed(0))
    vectors = torch.nn.functional.normalize(vectors).half()
    settings = {"case": [case.num_candidates, case.dim]}
    with CandidatePoolWriter(path, feature_dim=case.dim, dtype="float16", settings=settings) as writer:
        for first in range(writer.num_candidates, case.num_candidates, case.rows):
            names = [f"c{row}" for row in range(first, min(first + case.rows, case.num_candidates))]
            turned = vectors[: len(names)].roll(first // case.rows, dims=1)  # as random as new ones, but faster
            writer.add_candidates(names, names, turned)
        return writer.finish()


def rank(path: Path, batch: int, k: int) -> dict[str, float]:
    """Rank the pool for a batch of queries; return the seconds and the peak memory in GB."""
    pool, draw = CandidatePool.open(path), torch.Generator().manual_seed(0)
    queries = torch.randn(batch, pool.feature_dim, generator=draw)
    rows = torch.randint(pool.num_candidates, (batch,), generator=draw)
    with _watched() as peaks:
        started = time.perf_counter()
        search(queries, pool, k=k, query_index=torch.arange(batch), ranked=rows)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, **{name: value / 1e6 for name, value in peaks.items()}}


@contextmanager
def _watched() -> Iterator[dict[str, int]]:
    """Measure the peak memory of each kind of this process, in kB; pages of mapped files can be freed at any time."""
    peaks, done = dict.fromkeys(_KINDS.values(), 0), threading.Event()

    def look() -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in _KINDS:
                    peaks[_KINDS[name]] = max(peaks[_KINDS[name]], int(value.split()[0]))
            if done.wait(_EVERY):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def _peaks(values: list[dict[str, float]]) -> dict[str, float]:
    return {name: max(each[name] for each in values) for name in _KINDS.values()}


def _here(work: Any, *arguments: Any) -> Any:
    return work(*arguments)


def _name(batch: int) -> str:
    return f"{batch} quer{'y' if batch == 1 else 'ies'}"


def _read(files: list[Path]) -> None:
    buffer = bytearray(1 << 24)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def _forget(files: list[Path]) -> None:
    """Make the operating system drop files from its cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
