"""K-means: one large clustering against faiss, and a thousand small ones against a loop over scikit-learn."""

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.comparison import Comparison, Ratio, in_turns
from benchmarks.peers import Way, Work, require
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from ranking.vectors.clusters import Clusters
from ranking.vectors.kmeans import kmeans

_WITHIN = 1.01


@dataclass(frozen=True)
class Case:
    """The sets to cluster.

    Args:
        num_points: Number of points in the large set.
        num_sets: Number of small sets.
        points_a_set: Number of points in each small set.
        dim: Dimension of all points.
        num_centroids: K, the number of clusters.
        iterations: Number of iterations on the large set; the default of faiss.
    """

    num_points: int = 1_000_000
    num_sets: int = 1000
    points_a_set: int = 1000
    dim: int = 128
    num_centroids: int = 20
    iterations: int = 25


FULL, SMALL = Case(), Case(5000, 12, 200, 16, 8)
WAYS = {
    "ours, large": "one large set, every iteration made",
    "faiss": "faiss.Kmeans on the same set: all points, as many iterations",
    "ours, small": "all small sets in one call, until an iteration lowers a set's inertia by at most 0.5 %",
    "scikit-learn": "KMeans(n_init=1) on one small set after the other",
}
RATIOS = [Ratio("faiss", "ours, large", at_least=1), Ratio("scikit-learn", "ours, small", at_least=10)]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5, *, apart: bool = True) -> Comparison:
    """Cluster the same points in each way, each in its own process, with another seed in each repeat.

    Args:
        data: Not used.
        workload: The tiny one stands for small sets.
        repeats: How often each way runs.
        apart: Run each in a process of its own.

    Raises:
        ConfigError: If faiss or scikit-learn is not installed.
        AssertionError: If our clusters have a mean inertia more than 1 % above that of the others.
    """
    require("faiss", "sklearn")
    case = SMALL if workload == TINY else FULL
    start = partial(Way, apart=apart)
    ways = {
        "ours, large": start(_ours_large, case),
        "faiss": start(_faiss, case),
        "ours, small": start(_ours_small, case),
        "scikit-learn": start(_scikit_learn, case),
    }
    inertia: dict[str, list[float]] = {name: [] for name in ways}

    def timed(name: str) -> Callable[[], float]:
        def work() -> float:
            seconds = ways[name].seconds()
            inertia[name].append(ways[name].result)
            return seconds

        return work

    seconds = in_turns({name: timed(name) for name in ways}, repeats)
    for way in ways.values():
        way.close()
    means = {name: fmean(values) for name, values in inertia.items()}
    assert means["ours, large"] <= _WITHIN * means["faiss"], means
    assert means["ours, small"] <= _WITHIN * means["scikit-learn"], means
    operations = 2 * case.dim * case.num_centroids
    facts = {
        "case": asdict(case),
        "inertia": means,
        "inertia_of_each": inertia,
        "floor": {
            "gflop of the large set's assignments": operations * case.num_points * case.iterations / 1e9,
            "gflop of one assignment of all small sets": operations * case.num_sets * case.points_a_set / 1e9,
        },
    }
    return Comparison("kmeans", "how long does clustering take?", WAYS, seconds, RATIOS, facts)


def points(num_sets: int, num_points: int, dim: int) -> Float[Tensor, "P n D"]:
    """Points around 50 centres in each set; some centres are nearer to each other than to their points."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(num_sets, 50, dim, generator=draw)
    of = torch.randint(50, (num_sets, num_points), generator=draw)
    found = torch.randn(num_sets, num_points, dim, generator=draw)
    return found.add_(centres.flatten(0, 1)[of + 50 * torch.arange(num_sets).unsqueeze(1)])


def inertia_of(points: Float[Tensor, "n D"], centroids: Float[Tensor, "K D"], assignment: Int[Tensor, " n"]) -> float:
    """The sum of squared distances to the centroids."""
    blocks = zip(points.split(65536), assignment.split(65536), strict=True)
    return sum(float((block - centroids[of]).square().sum(dtype=torch.float64)) for block, of in blocks)


def _ours_large(case: Case) -> Work:
    return _ours(points(1, case.num_points, case.dim), case, max_iterations=case.iterations, tolerance=0.0)


def _ours_small(case: Case) -> Work:
    return _ours(points(case.num_sets, case.points_a_set, case.dim), case)


def _ours(vectors: Float[Tensor, "P n D"], case: Case, **options: Any) -> Work:
    mask, seeds = torch.ones(vectors.shape[:2], dtype=torch.bool), itertools.count()

    def work() -> Clusters:
        return kmeans(vectors, mask, case.num_centroids, seed=next(seeds), **options)

    def look(found: Clusters) -> float:
        return fmean(map(inertia_of, vectors, found.centroids, found.assignment))

    return work, look


def _faiss(case: Case) -> Work:
    import faiss

    vectors, seeds = points(1, case.num_points, case.dim)[0], itertools.count()

    def work() -> faiss.Kmeans:
        options = {"niter": case.iterations, "seed": next(seeds), "max_points_per_centroid": case.num_points}
        found = faiss.Kmeans(case.dim, case.num_centroids, **options)
        found.train(vectors.numpy())
        return found

    def look(found: faiss.Kmeans) -> float:
        _, nearest = found.index.search(vectors.numpy(), 1)
        return inertia_of(vectors, torch.from_numpy(found.centroids), torch.from_numpy(nearest[:, 0]))

    return work, look


def _scikit_learn(case: Case) -> Work:
    from sklearn.cluster import KMeans

    sets, seeds = list(points(case.num_sets, case.points_a_set, case.dim).numpy()), itertools.count()

    def work() -> list[KMeans]:
        seed = next(seeds)
        return [KMeans(case.num_centroids, n_init="auto", random_state=seed).fit(some) for some in sets]

    return work, lambda found: fmean(model.inertia_ for model in found)
