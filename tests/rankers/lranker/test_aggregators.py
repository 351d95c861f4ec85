"""Aggregators tell the same of a set however it is held; clusters against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.cluster import KMeans as PeerKMeans
from sklearn.decomposition import PCA
from torch import Tensor

from rankers.lranker.aggregators import Aggregator
from ranking.pools.pool_batch import Contexts
from ranking.stores.candidate_pool import CandidatePool
from registry import AGGREGATORS, ConfigError

DIM, K = 16, 6
NAMES = AGGREGATORS.names()
CLUSTERING = [name for name in NAMES if name != "set_encoder"]


def aggregator(name: str, **options: object) -> Aggregator:
    torch.manual_seed(0)
    return AGGREGATORS.build({"name": name, "num_centroids": K, **options}, feature_dim=DIM)


def vectors(count: int, dim: int = DIM) -> Tensor:
    """Points around 9 centres."""
    draw = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(9, dim, generator=draw)
    return centres[torch.randint(9, (count,), generator=draw)] + torch.randn(count, dim, generator=draw)


def assert_same(one: Contexts, other: Contexts) -> None:
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.centroids, other.centroids)


def means(points: Tensor, labels: np.ndarray) -> Tensor:
    """The mean of each cluster in float64, the largest cluster first."""
    found = {label: points[torch.from_numpy(labels == label)] for label in set(labels.tolist())}
    order = sorted(found.values(), key=lambda members: (-len(members), members.double().mean(dim=0)[0].item()))
    return torch.stack([members.double().mean(dim=0) for members in order])


def inertia(points: Tensor, centroids: Tensor) -> float:
    return torch.cdist(points.double(), centroids.double()).amin(dim=1).square().sum().item()


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_other_sets_do_not_matter(name: str) -> None:
    table, draw = vectors(300), torch.Generator().manual_seed(1)
    rows = torch.randint(300, (3, 40), generator=draw)
    mask = torch.arange(40) < torch.tensor([[40], [25], [4]])
    build = aggregator(name)
    together = build.summarise(table[rows], mask, seed=5)
    assert together.centroids.shape == (3, K, DIM)
    assert together.centroids.dtype == torch.float32
    assert together.mask.sum(dim=1).tolist()[:2] == [K, K]
    assert not together.centroids[~together.mask].any()
    assert_same(build.summarise(table[rows].masked_fill(~mask.unsqueeze(2), 1e5), mask, seed=5), together)
    assert_same(build.summarise_rows(table, rows.masked_fill(~mask, 0), mask, seed=5), together)
    for place in range(3):
        alone = build.summarise(table[rows[place, mask[place]]].unsqueeze(0), mask[place][mask[place]][None], seed=5)
        if name != "set_encoder":  # which draws from as many places as there are
            assert_same(alone, Contexts(*(part[place : place + 1] for part in together)))


@pytest.mark.parametrize("name", NAMES)
def test_no_and_few_candidates_leave_centroids_out(name: str) -> None:
    build = aggregator(name)
    for count in (0, 1, 3):
        found = build.summarise(vectors(count).unsqueeze(0), torch.ones(1, count, dtype=torch.bool), seed=0)
        assert found.mask[0].tolist() == [place < count for place in range(K)]
        assert not found.centroids[~found.mask].any()
        assert build(found).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_pool_is_summarised_like_a_set(name: str, dtype: torch.dtype) -> None:
    table, build = vectors(400).to(dtype), aggregator(name)
    yes = torch.ones(1, 400, dtype=torch.bool)
    assert_same(build.summarise_pool(table, None, seed=3), build.summarise(table.unsqueeze(0), yes, seed=3))
    rows = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:250]
    part = table[rows.sort().values].unsqueeze(0)
    assert_same(build.summarise_pool(table.split(90), rows, seed=3), build.summarise(part, yes[:, :250], seed=3))


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_on_disk_is_summarised_like_a_table(name: str, pool: CandidatePool) -> None:
    table, build = torch.cat(list(pool.blocks())), aggregator(name)
    assert_same(build.summarise_pool(pool, None, seed=1), build.summarise_pool(table, None, seed=1))


@pytest.mark.parametrize("name", CLUSTERING)
def test_what_is_left_out_leaves_the_mean_of_its_cluster(name: str) -> None:
    table, build = vectors(120), aggregator(name)
    rows = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:100]
    contexts, member = build.members(table, rows, seed=2)
    assert_same(build.summarise_pool(table, rows, seed=2), contexts)
    without = rows[[3, 50, 51]]
    left = ~torch.isin(rows, without)
    expected = means(table[rows[left]], member[left].numpy())
    found = build.summarise_pool(table, rows, seed=2, without=torch.cat([without, torch.tensor([999])]))
    torch.testing.assert_close(found.centroids[0, : len(expected)].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CLUSTERING)
def test_members_are_those_of_each_centroid_whatever_the_order_of_rows(name: str) -> None:
    table, build = vectors(120), aggregator(name)
    rows = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:100]
    contexts, member = build.members(table, rows, seed=2)
    for place in range(K):
        mean = table[rows[member == place]].double().mean(dim=0)
        torch.testing.assert_close(contexts.centroids[0, place].double(), mean, atol=1e-5, rtol=1e-5)


def test_a_set_encoder_draws_candidates_and_shows_none_that_is_left_out() -> None:
    table, build = vectors(40), aggregator("set_encoder")
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:30]
    contexts, member = build.members(table, rows, seed=2)
    for place in range(K):
        torch.testing.assert_close(contexts.centroids[0, place], table[rows[member == place]][0])
    assert (member >= 0).sum() == K
    shown = rows[[4, 9]]
    without = rows[~torch.isin(rows, shown)]
    few = build.summarise_pool(table, rows, seed=2, without=without)
    assert few.mask[0].tolist() == [True, True] + [False] * (K - 2)
    assert {tuple(row) for row in few.centroids[0, :2].tolist()} == {tuple(row) for row in table[shown].tolist()}


def test_a_set_encoder_learns_and_does_not_look_at_what_is_masked() -> None:
    build = aggregator("set_encoder")
    contexts = build.summarise(vectors(4).unsqueeze(0), torch.ones(1, 4, dtype=torch.bool), seed=0)
    heard = build(contexts)
    assert heard.shape == (1, K, DIM)
    heard.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for name, weight in build.named_parameters())
    garbage = contexts.centroids.masked_fill(~contexts.mask.unsqueeze(2), 1e4)
    torch.testing.assert_close(build(Contexts(garbage, contexts.mask)), heard)
    with pytest.raises(ConfigError, match=r"num_heads \(5\) must divide the size of the vectors \(16\)"):
        aggregator("set_encoder", num_heads=5)


def test_all_others_tell_the_centroids_as_they_are() -> None:
    for name in CLUSTERING:
        contexts = aggregator(name).summarise(vectors(50).unsqueeze(0), torch.ones(1, 50, dtype=torch.bool), seed=0)
        assert aggregator(name)(contexts) is contexts.centroids


def test_hierarchical_clusters_are_those_of_scikit_learn() -> None:
    points = vectors(80)
    labels = AgglomerativeClustering(K).fit(points[:, :5].numpy()).labels_
    found = aggregator("hierarchical", assign_dim=5).summarise_pool(points, None, seed=0)
    torch.testing.assert_close(found.centroids[0].double(), means(points, labels), atol=1e-5, rtol=1e-5)


def test_hierarchical_clustering_refuses_what_it_could_never_finish() -> None:
    with pytest.raises(ConfigError) as refused:
        aggregator("hierarchical").summarise_pool(torch.zeros(20_001, DIM), None, seed=0)
    assert (
        "ranker.aggregator: hierarchical clustering of 20,001 candidates needs the distances of all pairs, 2 GB"
        in str(refused.value)
    )
    assert "What to do:   use kmeans" in str(refused.value)


@pytest.mark.parametrize("in_memory", [True, False])
def test_small_batches_come_near_whole_k_means(in_memory: bool) -> None:
    points = vectors(3000).sort(dim=0).values  # alike ones stand together
    build = aggregator("minibatch_kmeans", batch_size=4096 if in_memory else 200, passes=2)
    found = build.summarise_pool(points, None, seed=0).centroids[0]
    whole = min(PeerKMeans(K, n_init=1, random_state=seed).fit(points.numpy()).inertia_ for seed in range(3))
    assert inertia(points, found) < 1.1 * whole


def test_principal_components_are_those_of_scikit_learn() -> None:
    points = vectors(300) * torch.linspace(0.1, 3, DIM)
    reduced = torch.from_numpy(PCA(4).fit_transform(points.numpy()))
    yes = torch.ones(1, 300, dtype=torch.bool)
    build = aggregator("pca_kmeans", num_components=4)
    contexts, member = build.members(points, None, seed=0)
    ours = means(reduced, member.numpy())
    theirs = min(PeerKMeans(K, n_init=1, random_state=seed).fit(reduced.numpy()).inertia_ for seed in range(3))
    assert inertia(reduced, ours) < 1.03 * theirs
    assert_same(build.summarise(points.unsqueeze(0), yes, seed=0), contexts)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "kmeans", "num_centroids": 0}, "num_centroids: expected int from 1 to 1,000, got 0"),
        ({"name": "kmeans", "assign_dim": 0}, "assign_dim: expected int from 1 to 67,108,864, got 0"),
        ({"name": "kmeans", "max_iterations": 0}, "max_iterations: expected int from 1 to 1,000, got 0"),
        ({"name": "minibatch_kmeans", "passes": 0}, "passes: expected int from 1 to 1,000, got 0"),
        ({"name": "pca_kmeans", "num_components": 0}, "num_components: expected int from 1 to 65,536, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(node: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AGGREGATORS.build(node, feature_dim=DIM)
