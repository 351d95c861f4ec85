"""Clusters against scikit-learn, faiss and plain loops in float64."""

import statistics
from collections.abc import Callable

import faiss
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ranking.vectors import kmeans as module
from ranking.vectors.clusters import Clusters, cluster_sums, largest_first
from ranking.vectors.kmeans import _Lloyd, _Start, kmeans, kmeans_rows


def yes(vectors: Tensor) -> Tensor:
    return torch.ones(vectors.shape[:2], dtype=torch.bool)


def spheres(num_sets: int, num_points: int, dim: int = 16) -> Tensor:
    """Noise without clusters."""
    return torch.randn(num_sets, num_points, dim, generator=torch.Generator().manual_seed(0))


def mixtures(num_sets: int, num_points: int, dim: int = 16) -> Tensor:
    """Points around 30 centres of different size in each set."""
    draw = torch.Generator().manual_seed(1)
    centres = 2 * torch.randn(num_sets, 30, dim, generator=draw)
    of = (30 * torch.rand(num_sets, num_points, generator=draw) ** 2).long()
    return centres[torch.arange(num_sets).unsqueeze(1), of] + torch.randn(num_sets, num_points, dim, generator=draw)


def directions(num_sets: int, num_points: int, dim: int = 16) -> Tensor:
    """Unit vectors that vary in few of their dimensions, as embeddings do."""
    spread = torch.arange(1, dim + 1) ** -0.7
    return torch.nn.functional.normalize(mixtures(num_sets, num_points, dim) * spread + 0.3, dim=-1)


DATA = [spheres, mixtures, directions]


def inertia(vectors: Tensor, found: Clusters) -> list[float]:
    """The sum of squared distances to the centroids, of each set, in float64."""
    sums = []
    for points, centroids, assignment in zip(vectors, found.centroids, found.assignment, strict=True):
        real = assignment >= 0
        sums.append((points[real].double() - centroids[assignment[real]].double()).square().sum().item())
    return sums


def assert_same(one: Clusters, other: Clusters) -> None:
    assert torch.equal(one.assignment, other.assignment)
    assert torch.equal(one.sizes, other.sizes)
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.centroids, other.centroids)


@pytest.mark.parametrize("data", DATA)
def test_many_small_sets_have_the_inertia_of_scikit_learn(data: Callable[[int, int], Tensor]) -> None:
    vectors = data(30, 300)
    ours = inertia(vectors, kmeans(vectors, yes(vectors), 10, seed=3))
    theirs = [
        KMeans(10, n_init=1, random_state=place).fit(points.numpy()).inertia_ for place, points in enumerate(vectors)
    ]
    assert statistics.mean(ours) <= 1.01 * statistics.mean(theirs)


@pytest.mark.parametrize("data", DATA)
def test_a_large_set_has_the_inertia_of_faiss(data: Callable[[int, int], Tensor]) -> None:
    vectors = data(1, 20_000)
    ours, theirs = [], []
    for seed in range(5):
        found = kmeans(vectors, yes(vectors), 10, max_iterations=25, tolerance=0.0, seed=seed)
        ours += inertia(vectors, found)
        peer = faiss.Kmeans(16, 10, niter=25, seed=seed, max_points_per_centroid=10**9)
        peer.train(vectors[0].numpy())
        theirs.append(peer.obj[-1])
    assert statistics.mean(ours) <= 1.01 * statistics.mean(theirs)


@pytest.mark.parametrize("num_points", [37, 5000])
def test_centroids_are_means_and_each_point_is_nearest_to_its_own(num_points: int) -> None:
    vectors = mixtures(2, num_points)
    found = kmeans(vectors, yes(vectors), 7, max_iterations=200, tolerance=0.0)
    for points, centroids, assignment in zip(vectors.double(), found.centroids, found.assignment, strict=True):
        means = torch.stack([points[assignment == cluster].mean(dim=0) for cluster in range(7)])
        torch.testing.assert_close(centroids.double(), means, atol=1e-5, rtol=1e-5)
        distances = torch.cdist(points, means)
        assert (distances.gather(1, assignment.unsqueeze(1))[:, 0] <= distances.amin(dim=1) + 1e-5).all()


def test_only_the_first_dimensions_assign_but_means_are_of_full_vectors() -> None:
    vectors = mixtures(3, 200)
    found = kmeans(vectors, yes(vectors), 6, assign_dim=5)
    short = kmeans(vectors[:, :, :5], yes(vectors), 6)
    assert torch.equal(found.assignment, short.assignment)
    for points, centroids, assignment in zip(vectors.double(), found.centroids, found.assignment, strict=True):
        means = torch.stack([points[assignment == cluster].mean(dim=0) for cluster in range(6)])
        torch.testing.assert_close(centroids.double(), means, atol=1e-5, rtol=1e-5)
    assert_same(kmeans(vectors, yes(vectors), 6, assign_dim=99), kmeans(vectors, yes(vectors), 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("assign_dim", [None, 5])
def test_rows_of_a_table_are_clustered_as_their_vectors(dtype: torch.dtype, assign_dim: int | None) -> None:
    draw = torch.Generator().manual_seed(0)
    table, rows = mixtures(1, 500)[0].to(dtype), torch.randint(500, (4, 90), generator=draw)
    mask = torch.rand(rows.shape, generator=draw) < 0.8
    expected = kmeans(table[rows], mask, 6, assign_dim=assign_dim)
    assert_same(kmeans_rows(table, rows.masked_fill(~mask, -1), mask, 6, assign_dim=assign_dim), expected)


def test_the_largest_cluster_comes_first() -> None:
    vectors = mixtures(5, 200)
    found = kmeans(vectors, yes(vectors), 8)
    assert torch.equal(found.sizes, found.sizes.sort(dim=1, descending=True).values)
    for assignment, sizes in zip(found.assignment, found.sizes, strict=True):
        assert assignment.bincount(minlength=8).tolist() == sizes.tolist()


def test_of_equally_large_clusters_that_with_the_lower_coordinates_leads() -> None:
    vectors = torch.tensor([[[5.0, 1.0], [5.0, 1.0], [5.0, -9.0], [5.0, -9.0], [-3.0, 7.0], [-3.0, 7.0]]])
    for seed in range(4):
        found = kmeans(vectors, yes(vectors), 3, seed=seed)
        assert found.centroids.tolist() == [[[-3.0, 7.0], [5.0, -9.0], [5.0, 1.0]]]
        assert found.assignment.tolist() == [[2, 2, 1, 1, 0, 0]]


def test_sets_do_not_influence_one_another_and_runs_repeat() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors = torch.cat([mixtures(6, 150), spheres(6, 150), directions(6, 150)])
    mask = torch.rand(vectors.shape[:2], generator=draw) < 0.7
    mask[3], mask[4, 2:] = False, False
    together = kmeans(vectors, mask, 9, seed=4)
    assert_same(kmeans(vectors, mask, 9, seed=4), together)
    for place in range(len(vectors)):
        alone = kmeans(vectors[place : place + 1], mask[place : place + 1], 9, seed=4)
        assert_same(alone, Clusters(*(part[place : place + 1] for part in together)))
        shorter = kmeans(vectors[place][mask[place]].unsqueeze(0), torch.ones(1, int(mask[place].sum())) > 0, 9, seed=4)
        assert shorter.sizes.tolist() == alone.sizes.tolist()


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e30])
def test_masked_points_never_matter(garbage: float) -> None:
    vectors = mixtures(3, 120)
    mask = torch.rand(3, 120, generator=torch.Generator().manual_seed(0)) < 0.6
    expected = kmeans(vectors.masked_fill(~mask.unsqueeze(2), 0), mask, 5)
    assert_same(kmeans(vectors.masked_fill(~mask.unsqueeze(2), garbage), mask, 5), expected)
    assert (expected.assignment[~mask] == -1).all()
    assert expected.sizes.sum(dim=1).tolist() == mask.sum(dim=1).tolist()


@pytest.mark.parametrize("num_points", [0, 1, 3, 40])
def test_fewer_different_points_than_clusters_leave_the_last_ones_empty(num_points: int) -> None:
    different = 100 * torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    vectors = different[torch.arange(num_points) % 3].unsqueeze(0)
    for seed in range(5):
        found = kmeans(vectors, yes(vectors), 6, seed=seed)
        count = min(3, num_points)
        assert found.mask[0].tolist() == [place < count for place in range(6)]
        assert found.centroids[0, count:].abs().sum() == 0
        assert found.sizes[0].sum() == num_points
        nearest = torch.cdist(different[:count], found.centroids[0, :count])
        assert num_points == 0 or nearest.amin(dim=1).max() < 1e-4


def test_a_centroid_without_points_gets_the_point_farthest_from_its_own() -> None:
    points = torch.tensor([[[0.0], [1.0], [2.0], [40.0], [90.0]]])
    lloyd = _Lloyd(points, yes(points), _Start(torch.tensor([[[1.0], [1e6], [-1e6]]])))
    lloyd.run(1, 0.0)
    assert sorted(lloyd.assignment[0].bincount().tolist()) == [1, 1, 3]
    assert lloyd.assignment[0, 3] != lloyd.assignment[0, 4]
    assert sorted((lloyd.sums / lloyd.sizes.unsqueeze(2)).flatten().tolist()) == [1.0, 40.0, 90.0]


def test_the_size_of_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for vectors in (mixtures(1, 3000), mixtures(40, 100)):
        expected = kmeans(vectors, yes(vectors), 8, assign_dim=10)
        monkeypatch.setattr(module, "_CACHED", 2000)
        monkeypatch.setattr(module, "_BLOCK", 1000)
        assert_same(kmeans(vectors, yes(vectors), 8, assign_dim=10), expected)
        monkeypatch.undo()


def test_a_tolerance_saves_iterations_and_costs_little() -> None:
    vectors = directions(10, 500)
    rough, fine = (inertia(vectors, kmeans(vectors, yes(vectors), 10, tolerance=each)) for each in (2e-3, 0.0))
    assert statistics.mean(fine) < statistics.mean(rough) < 1.01 * statistics.mean(fine)


def test_sums_are_in_full_precision() -> None:
    points = torch.full((1, 5000, 2), 0.1, dtype=torch.bfloat16)
    sums, sizes = cluster_sums(points, torch.zeros(1, 5000, dtype=torch.int64), 1)
    assert sizes.tolist() == [[5000]]
    expected = np.full((1, 1, 2), 5000 * points[0, 0, 0].item())
    np.testing.assert_allclose(sums, expected, rtol=1e-5)
    found = largest_first(sums, sizes, torch.tensor([[0, -1]]))
    assert found.assignment.tolist() == [[0, -1]]


def test_options_that_make_no_sense_are_refused() -> None:
    vectors = spheres(1, 5)
    for options, message in (
        ({"num_centroids": 0}, "num_centroids must be at least 1, not 0"),
        ({"max_iterations": 0}, "max_iterations must be at least 1, not 0"),
        ({"assign_dim": 0}, "assign_dim must be at least 1, or null for all dimensions, not 0"),
        ({"tolerance": 1.0}, "tolerance must be from 0 to below 1, not 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            kmeans(vectors, yes(vectors), **{"num_centroids": 2, **options})


@pytest.mark.gpu
def test_a_gpu_finds_clusters_as_good_as_a_processor() -> None:
    vectors = mixtures(8, 400)
    ours = kmeans(vectors.cuda(), yes(vectors).cuda(), 10)
    again = kmeans(vectors.cuda(), yes(vectors).cuda(), 10)
    assert torch.equal(ours.assignment, again.assignment)
    on_gpu = inertia(vectors, Clusters(*(part.cpu() for part in ours)))
    on_cpu = inertia(vectors, kmeans(vectors, yes(vectors), 10))
    assert statistics.mean(on_gpu) == pytest.approx(statistics.mean(on_cpu), rel=0.01)
