"""Test-time scaling against loops in float64 that share nothing with it but the rule of the random parts."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from pools import DIM, write_pool
from torch import Tensor

from rankers.lranker.aggregators import Aggregator, KMeans
from rankers.lranker.scaling import elimination
from rankers.lranker.scaling.scaling import Scaling, choose, heat_map, scale, scale_grid
from ranking.pools.pool_batch import Contexts
from ranking.vectors.search import inverse_norms
from registry import ConfigError

N, D, K, B = 300, 12, 4, 5


class Blocks:
    """A pool that can only be read as those on disk are, in blocks and by rows."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors, self.num_candidates, self.dtype = vectors, len(vectors), vectors.dtype
        self.largest = 0

    def blocks(self, start: int = 0, stop: int | None = None, size: int = 65536) -> Any:
        yield from self.vectors[start:stop].split(min(size, 70))

    def features(self, rows: Tensor) -> Tensor:
        self.largest = max(self.largest, len(rows))
        return self.vectors[rows]


class Quarters(Aggregator):
    """As many centroids as K: means of every K-th vector, in the order of the rows in the table."""

    def __init__(self) -> None:
        super().__init__(K)

    def summarise_rows(self, table: Tensor, rows: Tensor, mask: Tensor, seed: int) -> Contexts:
        table = table if table.dtype == torch.float64 else table.float()
        centroids = torch.zeros(len(rows), K, D, dtype=table.dtype)
        there = torch.zeros(len(rows), K, dtype=torch.bool)
        for part in range(len(rows)):
            vectors = table[rows[part][mask[part]]]
            order = sorted(range(len(vectors)), key=lambda place: vectors[place].tolist())
            for number in range(min(K, len(order))):
                centroids[part, number] = vectors[order[number::K]].mean(dim=0)
                there[part, number] = True
        return Contexts(centroids, there)


class embedder:
    """A fixed function of query and context that is not linear in either; of length one."""

    def __init__(self, queries: Tensor) -> None:
        self.queries, self.num_read = queries, 0
        self.mix = torch.randn(K, D, D, generator=torch.Generator().manual_seed(1)).to(queries)

    def __call__(self, contexts: Contexts) -> Tensor:
        self.num_read += contexts.mask.shape[:2].numel()
        seen = torch.einsum("bpkd,kde->bpe", contexts.centroids * contexts.mask.unsqueeze(-1), self.mix)
        vectors = torch.tanh(seen + self.queries.unsqueeze(1)) + 0.1 * contexts.mask.sum(dim=-1, keepdim=True)
        return torch.nn.functional.normalize(vectors, dim=-1)

    def keep(self, queries: Tensor) -> None:
        self.queries = self.queries[queries]


def reference(
    vectors: Tensor,
    queries: Tensor,
    width: int,
    depth: int,
    *,
    keep: float = 0.5,
    limit: int = 100_000,
    seed: int = 0,
    own: list[list[int]] | None = None,
    removed: set[tuple[int, int]] = frozenset(),  # type: ignore[assignment]
    whole: Contexts | None = None,
    settled: int | None = None,
) -> Tensor:
    """E[0] .. E[depth], query by query, part by part, candidate by candidate."""
    table = vectors.double()
    unit = table / table.norm(dim=1, keepdim=True)
    found = []
    for query in range(len(queries)):
        embed = embedder(queries[query : query + 1].double())
        candidates = own[query] if own else range(len(vectors))
        if own:
            candidates = [row for row in candidates if (query, row) not in removed]
        context = whole or summary(table, range(len(vectors)))
        steps = [embed(Contexts(context[0].double().unsqueeze(1), context[1].unsqueeze(1)))[0, 0]]
        for step in range(depth):
            candidates = sorted(candidates, key=lambda row: hashed(row, seed, step))
            start, reduced = 0, []
            for part in range(width):
                size = len(candidates) // width + (part < len(candidates) % width)
                members = [row for row in candidates[start : start + size] if (query, row) not in removed]
                start += size
                members.sort(key=lambda row: -float(unit[row] @ steps[-1]))
                stay = min(math.ceil(round(keep * len(members), 6)), max(1, limit // width))
                reduced.append(members[:stay])
            fresh = [
                embed(Contexts(*(part.unsqueeze(1) for part in summary(table, part))))[0, 0] for part in reduced if part
            ]
            steps.append((steps[-1] + sum(fresh)) / (1 + len(fresh)))
            candidates = [row for part in reduced for row in part]
            before, after = (torch.stack(each).mean(dim=0) for each in (steps[:-1], steps))
            orders = [sorted(candidates, key=lambda row: -float(unit[row] @ mean)) for mean in (before, after)]
            if settled and orders[0][:settled] == orders[1][:settled]:
                steps += [after] * (depth - step - 1)
                break
        found.append(torch.stack(steps))
    return torch.stack(found)


def summary(table: Tensor, rows: Any) -> Contexts:
    """The context of some rows."""
    rows = torch.tensor(list(rows))
    return Quarters().summarise_rows(table, rows.unsqueeze(0), torch.ones(1, len(rows), dtype=torch.bool), 0)


def hashed(row: int, seed: int, step: int) -> int:
    """The place of a row in the random order of a step."""
    bits = row ^ random.Random(f"{seed} {step}").getrandbits(32)
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * 0x45D9F3B) % 2**32
    return bits ^ (bits >> 16)


@pytest.fixture(scope="module")
def vectors() -> Tensor:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(N, D, generator=draw) * torch.rand(N, 1, generator=draw).add(0.2)


@pytest.fixture(scope="module")
def queries() -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def given(vectors: Tensor) -> dict[str, Any]:
    """What most tests scale with."""
    whole = summary(vectors, range(N))
    return {
        "aggregator": Quarters(),
        "whole": whole,
        "inverse_norms": 1 / vectors.norm(dim=1),
        "num_queries": B,
    }


@pytest.mark.parametrize(
    ("width", "depth", "options"),
    [
        (3, 4, {}),
        (7, 3, {"keep": 0.3, "seed": 5}),
        (1, 2, {"keep": 1.0}),
        (4, 2, {"limit": 30}),
        (9, 5, {"keep": 0.1}),  # parts grow smaller than K, then run out
    ],
)
@pytest.mark.parametrize("place", ["in memory", "in blocks"])
def test_embeddings_are_those_of_loops(
    vectors: Tensor,
    queries: Tensor,
    given: dict[str, Any],
    width: int,
    depth: int,
    options: dict[str, Any],
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if place == "in blocks":
        monkeypatch.setattr(elimination, "_BYTES", 5000)
    pool = vectors if place == "in memory" else Blocks(vectors)
    found = scale(embedder(queries), pool, width=width, depth=depth, **given, **options)
    torch.testing.assert_close(
        found, reference(vectors, queries, width, depth, **options).float(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("width", "depth", "settled"), [(3, 6, 1), (2, 6, 3), (5, 4, 2), (4, 1, 1)])
def test_a_query_stops_when_its_best_candidates_stay_the_same(
    vectors: Tensor, queries: Tensor, given: dict[str, Any], width: int, depth: int, settled: int
) -> None:
    embed = embedder(queries)
    found = scale(embed, vectors, width=width, depth=depth, settled=settled, **given)
    expected = reference(vectors, queries, width, depth, settled=settled)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    steps = (expected != expected[:, -1:]).any(dim=2).sum(dim=1)
    if depth > 1:
        assert B < embed.num_read < B * (1 + width * depth)
        assert steps.unique().numel() > 1, "queries stop after different steps"


def test_removed_candidates_and_own_lists_are_those_of_loops(
    vectors: Tensor, queries: Tensor, given: dict[str, Any]
) -> None:
    draw = torch.Generator().manual_seed(4)
    pairs = {(query, int(row)) for query in range(B) for row in torch.randperm(N, generator=draw)[: 20 * query]}
    removed = torch.tensor(sorted(pairs))
    found = scale(embedder(queries), vectors, width=4, depth=3, removed=removed, **given)
    expected = reference(vectors, queries, 4, 3, removed=pairs)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    lists = [torch.randperm(N, generator=draw)[: 3 + 7 * query].tolist() for query in range(B)]
    own = torch.full((B, 40), -1)
    for query, rows in enumerate(lists):
        own[query, : len(rows)] = torch.tensor(rows)
    holes = torch.tensor(
        [[-1 if (query, row) in pairs else row for row in rows] for query, rows in enumerate(own.tolist())]
    )
    for some, taken in ((own, set()), (holes, pairs)):
        found = scale(embedder(queries), vectors, width=5, depth=3, own=some, **given)
        expected = reference(vectors, queries, 5, 3, own=lists, removed=taken)
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)


def test_own_lists_of_the_whole_pool_are_the_pool(vectors: Tensor, queries: Tensor, given: dict[str, Any]) -> None:
    own = torch.arange(N).flip(0).repeat(B, 1)
    settings = {"width": 3, "depth": 3, **given}
    found = scale(embedder(queries), vectors, own=own, **settings)
    torch.testing.assert_close(found, scale(embedder(queries), vectors, **settings), rtol=1e-4, atol=1e-5)


def test_a_query_without_candidates_is_ranked_directly(vectors: Tensor, queries: Tensor, given: dict[str, Any]) -> None:
    own = torch.tensor([[-1, -1], [5, 9], [7, -1], [-1, -1], [1, 2]])
    found = scale(embedder(queries), vectors, width=3, depth=2, own=own, **given)
    assert found.isfinite().all()
    assert torch.equal(found[0, 2], found[0, 0])
    assert not torch.equal(found[1, 2], found[1, 0])


def test_each_whole_context_may_be_its_query_s_own(vectors: Tensor, queries: Tensor, given: dict[str, Any]) -> None:
    whole = Contexts(
        *(torch.cat(parts) for parts in zip(*(summary(vectors, range(q, N)) for q in range(B)), strict=True))
    )
    found = scale(embedder(queries), vectors, width=2, depth=1, **{**given, "whole": whole})
    for query in range(B):
        alone = {**given, "whole": Contexts(*(part[query : query + 1] for part in whole)), "num_queries": 1}
        single = scale(embedder(queries[query : query + 1]), vectors, width=2, depth=1, **alone)
        torch.testing.assert_close(found[query : query + 1], single, rtol=1e-5, atol=1e-6)


def test_the_grid_is_the_mean_of_separate_runs(vectors: Tensor, queries: Tensor, given: dict[str, Any]) -> None:
    widths = [0, 1, 2, 5, 10]
    grid = scale_grid(embedder(queries), vectors, widths=widths, max_depth=4, **given)
    assert grid.shape == (B, len(widths), 5, D)
    for place, width in enumerate(widths):
        for depth in range(5):
            alone = scale(embedder(queries), vectors, width=width, depth=depth, **given).mean(dim=1)
            torch.testing.assert_close(grid[:, place, depth], alone, rtol=1e-4, atol=1e-5)


def test_the_grid_reads_contexts_once_a_step(vectors: Tensor, queries: Tensor, given: dict[str, Any]) -> None:
    seen = []

    class Watched(embedder):
        def __call__(self, contexts: Contexts) -> Tensor:
            seen.append(contexts.centroids.shape[:2])
            return super().__call__(contexts)

    scale_grid(Watched(queries), vectors, widths=[1, 2, 3], max_depth=3, **given)
    assert seen == [(B, 1), (B, 6), (B, 6), (B, 6)]


def test_width_or_depth_0_is_direct_ranking(vectors: Tensor, queries: Tensor, given: dict[str, Any]) -> None:
    direct = embedder(queries)(Contexts(*(part.expand(B, *part.shape[1:]).unsqueeze(1) for part in given["whole"])))
    assert torch.equal(scale(embedder(queries), vectors, width=4, depth=0, **given), direct)
    assert torch.equal(scale(embedder(queries), vectors, width=0, depth=3, **given), direct.expand(-1, 4, -1))


def test_a_run_can_be_repeated_and_another_seed_is_another_run(
    vectors: Tensor, queries: Tensor, given: dict[str, Any]
) -> None:
    first, again, other = (
        scale(embedder(queries), vectors, width=3, depth=3, seed=seed, **given) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first[:, 1:], other[:, 1:])


def test_a_query_s_embeddings_do_not_depend_on_the_batch(
    vectors: Tensor, queries: Tensor, given: dict[str, Any]
) -> None:
    together = scale(embedder(queries), vectors, width=3, depth=3, **given)
    for some in ([2], [4, 0], [3, 1, 3]):
        settings = {**given, "num_queries": len(some)}
        found = scale(embedder(queries[some]), vectors, width=3, depth=3, **settings)
        torch.testing.assert_close(found, together[some], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_with_k_means_too_a_query_stands_alone_and_few_candidates_will_do(
    vectors: Tensor, queries: Tensor, given: dict[str, Any], dtype: torch.dtype
) -> None:
    settings = {**given, "aggregator": KMeans(K, assign_dim=6), "width": 4, "depth": 4}
    own = torch.full((B, 30), -1)
    for query, count in enumerate((30, 1, 3, 0, 12)):
        own[query, :count] = torch.arange(count) * 3 + query
    together = scale(embedder(queries), vectors.to(dtype), own=own, **settings)
    assert together.isfinite().all()
    for query in range(B):
        single = {**settings, "num_queries": 1, "own": own[query : query + 1]}
        found = scale(embedder(queries[query : query + 1]), vectors.to(dtype), **single)
        torch.testing.assert_close(found[0], together[query], rtol=1e-4, atol=1e-5)


def test_a_large_pool_is_never_in_memory(
    vectors: Tensor, queries: Tensor, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elimination, "_BYTES", 4 * D * 40)
    pool = Blocks(vectors)
    found = scale(embedder(queries), pool, width=3, depth=3, limit=30, **given)
    assert 0 < pool.largest <= 40
    expected = scale(embedder(queries), vectors, width=3, depth=3, limit=30, **given)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_pool_on_disk_is_scaled_over_as_its_vectors_are(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", dtype="float16", normalize=False)
    table = pool.features(torch.arange(pool.num_candidates))
    queries, aggregator = torch.randn(B, DIM, generator=torch.Generator().manual_seed(5)), KMeans(K)

    class Embedder(embedder):
        def __call__(self, contexts: Contexts) -> Tensor:
            vectors = torch.tanh(contexts.centroids.sum(dim=2) + self.queries.unsqueeze(1))
            return torch.nn.functional.normalize(vectors, dim=-1)

    embed = Embedder(queries)
    whole, norms = aggregator.summarise_pool(pool, None, 0), inverse_norms(pool)
    settings = {"num_queries": B, "width": 3, "depth": 3, "inverse_norms": norms}
    found = scale(embed, pool, aggregator, whole, **settings)
    torch.testing.assert_close(found, scale(embed, table, aggregator, whole, **settings))


def test_half_precision_pools_are_scored_in_fp32(vectors: Tensor, queries: Tensor, given: dict[str, Any]) -> None:
    halves = vectors.half()
    norms = 1 / halves.float().norm(dim=1)
    settings = {"width": 3, "depth": 3, **{**given, "inverse_norms": norms}}
    found = scale(embedder(queries), halves, **settings)
    torch.testing.assert_close(found, scale(embedder(queries), halves.float(), **settings), rtol=1e-5, atol=1e-6)


def test_the_best_value_is_chosen_and_of_equal_ones_the_cheapest() -> None:
    values = torch.tensor([[0.1, 0.5, 0.3, 0.2], [0.1, 0.2, 0.5, 0.2], [0.1, 0.4, 0.2, 0.5]])
    assert choose(values, [6, 2, 1]) == (1, 3)
    assert choose(values, [2, 2, 2]) == (2, 1)
    assert choose(torch.full((2, 3), 0.4), [3, 4]) == (0, 0)


def test_the_heat_map_is_a_picture_written_whole(tmp_path: Path) -> None:
    values = torch.linspace(0, 1, 12).view(3, 4)
    heat_map(values, [2, 4, 8], tmp_path / "heat.png", "mrr")
    assert [file.name for file in tmp_path.iterdir()] == ["heat.png"]
    picture = imread(tmp_path / "heat.png")
    red = (picture[..., 0] > 0.95) & (picture[..., 1:3].max(axis=-1) < 0.05)
    rows, columns = np.nonzero(red)
    assert len(rows) > 50
    assert columns.mean() > picture.shape[1] * 0.6  # the highest value: last depth, last width
    assert rows.mean() > picture.shape[0] * 0.55
    heat_map(torch.full((1, 1), 0.5), [3], tmp_path / "heat.png", "mrr")  # direct ranking, one value


def test_no_width_to_choose_from_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ranker\.scaling\.widths: there is none"):
        Scaling(widths=[])


def test_one_width_needs_no_others_to_choose_from() -> None:
    assert Scaling(widths=[], width=2, depth=1).width == 2
    with pytest.raises(ConfigError, match="one of width and depth is set"):
        Scaling(depth=3)
