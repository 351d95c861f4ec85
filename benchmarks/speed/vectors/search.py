"""Search: finds the best candidates of a pool for a batch of queries, against faiss and the products alone."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from benchmarks import machine
from benchmarks.comparison import Comparison, Ratio, in_turns, seconds_of
from benchmarks.peers import Way, Work, require
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from ranking.vectors.products import products
from ranking.vectors.search import places, top_k

_BLOCK = 4096
_ON_GPU = (1, 32, 256)
_LARGEST = 48_000_000


@dataclass(frozen=True)
class Case:
    """The pool and queries to search.

    Args:
        num_candidates: N, the number of candidates, which are random vectors.
        dim: Size of the vectors.
        num_queries: Number of queries in the batch.
        k: Number of candidates to find.
        dim_on_gpu: Size of the vectors in the pool that fills a GPU.
    """

    num_candidates: int = 1_000_000
    dim: int = 384
    num_queries: int = 256
    k: int = 10
    dim_on_gpu: int = 1024


FULL, SMALL = Case(), Case(5000, 32, 20, 10, 16)
WAYS = {
    "ours": "top_k over a pool in fp32",
    "ours, fp16": "top_k over the same pool in fp16; scores are fp32",
    "ours, places": "the place of one candidate per query instead",
    "faiss": "IndexFlatIP with default settings",
    "faiss, no BLAS": "IndexFlatIP with faiss's own kernels: the BLAS in its package is slow on some processors",
    "products": "all scores, block by block, without using them",
}
RATIOS = [
    Ratio("faiss", "ours", at_least=1),
    Ratio("faiss, no BLAS", "ours", at_least=1),
    Ratio("ours", "products"),
    Ratio("ours, fp16", "ours"),
    Ratio("ours, places", "ours"),
]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5, *, apart: bool = True) -> Comparison:
    """Search the same random vectors in each way, each in its own process; on a GPU also a pool that fills it.

    Args:
        data: Folder for the vectors.
        workload: The tiny one stands for a small pool.
        repeats: How often each way runs.
        apart: Run each in a process of its own.

    Raises:
        ConfigError: If faiss is not installed.
        AssertionError: If faiss finds other candidates whose scores differ by more than rounding.
    """
    require("faiss")
    case = SMALL if workload == TINY else FULL
    path = _write(case, data)
    start = partial(Way, apart=apart)
    ways = {
        "ours": start(_ours, path, case.k, torch.float32),
        "ours, fp16": start(_ours, path, case.k, torch.float16),
        "ours, places": start(_places, path),
        "faiss": start(_faiss, path, case.k, True),
        "faiss, no BLAS": start(_faiss, path, case.k, False),
        "products": start(_products, path),
    }
    for way in ways.values():
        way.seconds()
    seconds = in_turns({name: way.seconds for name, way in ways.items()}, repeats)
    results = {name: way.result for name, way in ways.items()}
    for way in ways.values():
        way.close()
    differ = {name: _compare(path, results["ours"], results[name]) for name in ("faiss", "faiss, no BLAS")}
    rate = _multiplications_per_second(min(2048, case.num_candidates))
    operations = 2 * case.num_candidates * case.num_queries * case.dim
    facts = {
        "case": asdict(case),
        "gflop_per_second": {name: operations / 1e9 / median(values) for name, values in seconds.items()},
        "floor": {"gflop": operations / 1e9, "gflop_per_second": rate / 1e9, "seconds": operations / rate},
        "share_of_candidates_that_differ": differ,
    }
    if torch.cuda.is_available():
        memory = torch.cuda.mem_get_info()[0]
        count = min(_LARGEST, int(0.8 * memory) // (2 * case.dim_on_gpu))
        facts["gpu"] = on_device(torch.device("cuda"), count, case, repeats)
    question = f"how long does it take to find the best {case.k} of {case.num_candidates:,} candidates?"
    return Comparison("search", question, WAYS, seconds, RATIOS, facts)


def on_device(device: torch.device, num_candidates: int, case: Case, repeats: int) -> dict[str, Any]:
    """Measure how fast a device searches a pool in fp16 in its memory, and how fast it reads this memory."""
    pool = torch.empty(num_candidates, case.dim_on_gpu, dtype=torch.float16, device=device)
    for block in pool.split(1 << 20):
        block.normal_()
    size, part = pool.nbytes, pool[: 1 << 20]
    target = torch.empty_like(part)

    def timed(work: Callable[[], Any]) -> float:
        work()
        return median(seconds_of(partial(_finished, work, device)) for _ in range(repeats))

    copied = 2 * part.nbytes / timed(partial(target.copy_, part))
    found: dict[str, Any] = {"candidates": num_candidates, "dim": case.dim_on_gpu, "gigabytes": size / 1e9}
    found["gigabytes_per_second_copied"] = copied / 1e9
    for batch in _ON_GPU:
        queries = torch.randn(batch, case.dim_on_gpu, device=device)
        rows = torch.randint(num_candidates, (batch,))
        works = {
            "top_k": partial(top_k, queries, pool, case.k),
            "places": partial(places, queries, pool, torch.arange(batch), rows),
        }
        for name, work in works.items():
            seconds = timed(work)
            found[f"{name}, {batch} queries"] = {"seconds": seconds, "share_of_bandwidth": size / seconds / copied}
    return found


def _finished(work: Callable[[], Any], device: torch.device) -> None:
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _write(case: Case, data: Path) -> Path:
    path = data / f"vectors-{case.num_candidates}x{case.dim}"
    path.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for name, count in (("queries", case.num_queries), ("candidates", case.num_candidates)):
        np.save(path / f"{name}.npy", draw.standard_normal((count, case.dim), dtype=np.float32))
    return path


def _read(path: Path) -> tuple[Float[np.ndarray, "Q D"], Float[np.ndarray, "N D"]]:
    mapped = np.load(path / "candidates.npy", mmap_mode="c")  # shared by all processes
    return np.load(path / "queries.npy"), mapped


def _ours(path: Path, k: int, dtype: torch.dtype) -> Work:
    queries, candidates = (torch.from_numpy(vectors) for vectors in _read(path))
    pool = candidates.to(dtype)
    return lambda: top_k(queries, pool, k), lambda found: tuple(part.numpy() for part in found)


def _places(path: Path) -> Work:
    queries, candidates = (torch.from_numpy(vectors) for vectors in _read(path))
    rows = torch.randint(len(candidates), (len(queries),), generator=torch.Generator().manual_seed(0))
    work = partial(places, queries, candidates, torch.arange(len(queries)), rows)
    return work, lambda found: float(found.above.mean())


def _products(path: Path) -> Work:
    queries, candidates = (torch.from_numpy(vectors) for vectors in _read(path))
    blocks = candidates.split(_BLOCK)
    return lambda: [products(queries, block) is None for block in blocks], any


def _faiss(path: Path, k: int, with_blas: bool) -> Work:
    import faiss

    queries, candidates = _read(path)
    index = faiss.IndexFlatIP(candidates.shape[1])
    index.add(candidates)
    if not with_blas:
        faiss.cvar.distance_compute_blas_threshold = len(queries) + 1
    return lambda: index.search(queries, k), lambda found: found


def _compare(path: Path, ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> float:
    """The share of candidates that differ; their scores in float64 must be equal."""
    queries, candidates = _read(path)
    exact = [
        np.einsum("qd,qkd->qk", queries.astype(np.float64), candidates[rows].astype(np.float64))
        for rows in (ours[1], theirs[1])
    ]
    np.testing.assert_allclose(*exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours[0], exact[0], rtol=1e-4, atol=1e-4)
    return float((ours[1] != theirs[1]).mean())


def _multiplications_per_second(size: int) -> float:
    """The result of `machine.multiplications_per_second`, or of our kernel if it is faster."""
    matrix = torch.randn(size, size)
    best = min(seconds_of(lambda: products(matrix, matrix)) for _ in range(10))
    return max(machine.multiplications_per_second(size), 2 * size**3 / best)
