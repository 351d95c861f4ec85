"""Best candidates and places against sorting all scores in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ranking.places import Places
from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors import search
from ranking.vectors.search import inverse_norms, places, top_k

NUM_QUERIES, NUM_CANDIDATES, DIM = 40, 700, 5


def whole_numbers(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Queries and candidates that every dtype holds exactly; many scores tie."""
    draw = torch.Generator().manual_seed(0)
    queries = torch.randint(-3, 4, (NUM_QUERIES, DIM), generator=draw).float()
    return queries, torch.randint(-3, 4, (NUM_CANDIDATES, DIM), generator=draw).to(dtype)


def pairs(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    query = torch.randint(NUM_QUERIES, (count,), generator=draw)
    return query, torch.randint(NUM_CANDIDATES, (count,), generator=draw)


def all_scores(queries: Tensor, candidates: Tensor, removed: Tensor | None = None, cosine: bool = False) -> Tensor:
    """Scores of all pairs in float64, added up in the same order for equal candidates."""
    candidates = candidates.double()
    scores = (queries.double().unsqueeze(1) * candidates).sum(dim=2)
    if cosine:
        lengths = candidates.norm(dim=1)
        scores = torch.where(lengths > 0, scores / lengths, 0)
    if removed is not None:
        scores[removed[:, 0], removed[:, 1]] = -torch.inf
    return scores


def brute_force_places(scores: Tensor, own: Tensor, query: Tensor, rows: Tensor, tolerance: float = 0) -> Places:
    """Places of pairs; scores no further apart than the tolerance tie."""
    others = scores[query].clone()
    others[torch.arange(len(rows)), rows] = -torch.inf
    distance = others - own[query, rows].unsqueeze(1)
    return Places((distance > tolerance).sum(dim=1).double(), (distance.abs() <= tolerance).sum(dim=1).double())


def listed(places: Places) -> list[list[float]]:
    return [each.tolist() for each in places]


@pytest.fixture(params=["one block", "small blocks and chunks"], autouse=True)
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small blocks and chunks":
        monkeypatch.setattr(search, "_CHUNK", 16)
        monkeypatch.setattr(search, "_CACHED", 4096)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 7, 300, 1000])
def test_the_best_are_those_of_a_stable_sort_of_all_scores(dtype: torch.dtype, k: int) -> None:
    queries, candidates = whole_numbers(dtype)
    removed = torch.stack(pairs(400), dim=1)
    scores, rows = top_k(queries, candidates, k, removed=removed)
    expected, order = all_scores(queries, candidates, removed).sort(dim=1, descending=True, stable=True)
    assert scores.dtype == torch.float32
    assert scores.tolist() == expected[:, :k].tolist()
    assert rows.tolist() == order[:, :k].masked_fill(expected[:, :k].isinf(), -1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_inverse_norms_make_scores_cosines(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(3)
    queries, candidates = whole_numbers()[0], torch.randn(NUM_CANDIDATES, DIM, generator=draw).to(dtype)
    candidates[7] = 0
    norms = inverse_norms(candidates)
    expected = all_scores(queries, candidates, cosine=True)
    scores, rows = top_k(queries, candidates, 20, inverse_norms=norms)
    torch.testing.assert_close(scores.double(), expected.topk(20, dim=1).values, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(expected.gather(1, rows), scores.double(), atol=1e-5, rtol=1e-6)
    query, rows = pairs(100)
    found = places(queries, candidates, query, rows, inverse_norms=norms)
    for ours, theirs in zip(found, brute_force_places(expected, expected, query, rows), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 40, 500])
def test_places_count_the_higher_and_the_tied(dtype: torch.dtype, count: int) -> None:
    queries, candidates = whole_numbers(dtype)
    removed = torch.stack(pairs(400), dim=1)
    query, rows = pairs(count, seed=2)
    found = places(queries, candidates, query, rows, removed=removed)
    own = all_scores(queries, candidates)
    expected = brute_force_places(all_scores(queries, candidates, removed), own, query, rows)
    assert found.above.dtype == torch.float64
    assert listed(found) == listed(expected)


def test_a_removed_candidate_is_ranked_as_if_it_alone_was_back() -> None:
    queries, candidates = whole_numbers()
    query, rows = torch.tensor([3]), torch.tensor([5])
    removed = torch.tensor([[3, 5], [3, 6]])
    own = all_scores(queries, candidates)
    expected = brute_force_places(all_scores(queries, candidates, removed[1:]), own, query, rows)
    assert listed(places(queries, candidates, query, rows, removed=removed)) == listed(expected)


@pytest.mark.parametrize("dim", [3, 64, 100])
@pytest.mark.parametrize("num_queries", [1, 3, 50])
@pytest.mark.parametrize("backend", ["onednn", "any"])
def test_equal_candidates_tie_wherever_they_stand(
    dim: int, num_queries: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "any":
        monkeypatch.setattr("ranking.vectors.products._ONEDNN", None)
    draw = torch.Generator().manual_seed(dim)
    queries, different = torch.randn(num_queries, dim, generator=draw), torch.randn(300, dim, generator=draw)
    place = torch.randint(300, (1500,), generator=draw)
    candidates = different[place]
    query, rows = torch.randint(num_queries, (90,), generator=draw), torch.randint(1500, (90,), generator=draw)
    scores = all_scores(queries, candidates)
    norms = inverse_norms(candidates)
    assert listed(places(queries, candidates, query, rows)) == listed(
        brute_force_places(scores, scores, query, rows, tolerance=1e-12)
    )
    cosines = all_scores(queries, candidates, cosine=True)
    assert listed(places(queries, candidates, query, rows, inverse_norms=norms)) == listed(
        brute_force_places(cosines, cosines, query, rows, tolerance=1e-12)
    )
    _, found = top_k(queries, candidates, 20)
    assert found.tolist() == scores.sort(dim=1, descending=True, stable=True).indices[:, :20].tolist()


def test_a_query_alone_gets_what_it_gets_beside_others() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(20, 64, generator=draw), torch.randn(3000, 64, generator=draw)
    rows = torch.arange(20) * 7
    together = search.search(queries, candidates, k=5, query_index=torch.arange(20), ranked=rows)
    for query in range(20):
        alone = search.search(
            queries[query : query + 1],
            candidates,
            k=5,
            query_index=torch.zeros(1, dtype=torch.int64),
            ranked=rows[query : query + 1],
        )
        assert alone.rows.tolist() == together.rows[query : query + 1].tolist()
        assert listed(alone.places) == [each[query : query + 1].tolist() for each in together.places]


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("k", [3, 100])
def test_the_order_of_the_pool_does_not_matter(order: bool, k: int) -> None:
    """Rising scores replace all of the best so far in each block."""
    candidates = torch.arange(5000.0).unsqueeze(1)
    rising = candidates if order else candidates.flip(0)
    scores, rows = top_k(torch.tensor([[1.0], [-1.0]]), rising, k)
    assert scores[0].tolist() == list(range(4999, 4999 - k, -1))
    assert rising[rows[1]].flatten().tolist() == list(range(k))


def test_a_pool_on_disk_or_in_parts_is_searched_like_one_tensor(pool: CandidatePool) -> None:
    candidates = torch.cat(list(pool.blocks()))
    queries = pool.queries.features(torch.arange(pool.queries.num_queries))
    query, rows = torch.arange(len(queries)), torch.arange(len(queries)) * 3
    expected = search.search(queries, candidates, k=9, query_index=query, ranked=rows)
    for other in (pool, candidates.split([1, 150, 0, len(candidates) - 151])):
        found = search.search(queries, other, k=9, query_index=query, ranked=rows)
        pairs = zip((*found[:2], *found.places), (*expected[:2], *expected.places), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        torch.testing.assert_close(inverse_norms(other), 1 / candidates.norm(dim=1))


def test_scores_are_fp32_under_mixed_precision() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(9, 32, generator=draw), torch.randn(500, 32, generator=draw)
    expected = top_k(queries, candidates, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = top_k(queries.requires_grad_(), candidates, 5)
    assert not found[0].requires_grad
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("call", [lambda q, c: top_k(q, c, 2), lambda q, c: places(q, c, *[torch.tensor([2])] * 2)])
@pytest.mark.parametrize("broken", ["query", "candidate"])
def test_scores_that_are_nan_are_refused(call: Callable[[Tensor, Tensor], Any], broken: str) -> None:
    queries, candidates = whole_numbers()
    (queries if broken == "query" else candidates)[2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"scores of queries .*2.* are nan, so they have no order"):
        call(queries, candidates)


def test_rows_that_the_pool_does_not_have_are_refused() -> None:
    queries, candidates = whole_numbers()
    for row in (-1, NUM_CANDIDATES):
        with pytest.raises(ValueError, match=f"rows to rank must be from 0 to {NUM_CANDIDATES - 1}"):
            places(queries, candidates, torch.tensor([0]), torch.tensor([row]))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gpu_finds_what_a_processor_finds(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(30, 64, generator=draw), torch.randn(9000, 64, generator=draw).to(dtype)
    candidates[torch.randperm(9000, generator=draw)[:50]] = candidates[0]
    query, rows = torch.arange(30), torch.arange(30) * 20
    removed = torch.stack([query, rows + 1], dim=1)
    options = {"k": 20, "query_index": query, "ranked": rows, "removed": removed}
    expected = search.search(queries, candidates, **options)
    for other in (candidates, candidates.cuda()):
        found = search.search(queries.cuda(), other, **options)
        assert listed(found.places) == listed(expected.places)
        torch.testing.assert_close(found.scores.cpu(), expected.scores, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_block_of_one_row_is_no_exception(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    queries, different = torch.randn(30, 384, generator=draw), torch.randn(64, 384, generator=draw).to(dtype)
    everything_twice = torch.cat([different, different])
    for query in range(30):  # one pair is looked up in a block of its own
        found = places(queries, everything_twice, torch.tensor([query]), torch.tensor([query]))
        assert found.tied.tolist() == [1]
    last_alone = torch.cat([different[:1], everything_twice[:62], different[:1]])
    parts = [last_alone[:-1], last_alone[-1:]]
    found = places(queries, parts, torch.arange(30), torch.zeros(30, dtype=torch.int64))
    assert found.tied.tolist() == [2] * 30


@pytest.mark.parametrize("removed", [None, 300])
def test_many_candidates_of_one_query_are_placed_by_sorting(removed: int | None) -> None:
    queries, candidates = whole_numbers()
    query, rows = torch.tensor([3] * 200 + [5] * 2), torch.cat([torch.arange(200), torch.tensor([7, 8])])
    pairs_removed = None if removed is None else torch.stack(pairs(removed), dim=1)
    pairs_removed = None if pairs_removed is None else pairs_removed[pairs_removed[:, 0] != 3]
    own = all_scores(queries, candidates)
    expected = brute_force_places(all_scores(queries, candidates, pairs_removed), own, query, rows)
    assert listed(places(queries, candidates, query, rows, removed=pairs_removed)) == listed(expected)
    broken = candidates.clone()
    broken[600] = torch.nan
    with pytest.raises(ValueError, match="nan"):
        places(queries, broken, query, rows)
