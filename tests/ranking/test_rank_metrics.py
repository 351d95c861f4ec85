"""Metrics of places against ir-measures, over every order of what ties, and against metrics of all scores."""

import itertools
from fractions import Fraction
from math import comb

import ir_measures
import pytest
import torch
from torch import Tensor

from ranking import rank_metrics
from ranking.places import Places
from registry import METRICS, RANK_METRICS

NAMES = ["hit", "hit@3", "mrr", "mrr@3", "ndcg", "ndcg@3", "recall@1", "recall@3", "precision@3"]
EXPONENTIAL = {"name": "ndcg", "k": 4, "gain": "exponential"}
MEASURES = {
    "hit": ir_measures.Success @ 1,
    "hit@3": ir_measures.Success @ 3,
    "mrr": ir_measures.RR,
    "mrr@3": ir_measures.RR @ 3,
    "ndcg": ir_measures.nDCG,
    "ndcg@3": ir_measures.nDCG @ 3,
    "recall@1": ir_measures.R @ 1,
    "recall@3": ir_measures.R @ 3,
    "precision@3": ir_measures.P @ 3,
}


def lists(seed: int = 0, *, num_scores: int = 1000) -> tuple[Tensor, Tensor]:
    """Scores of 12 candidates of 100 queries and graded labels; the second query has no label.

    With few different scores, many candidates tie.
    """
    draw = torch.Generator().manual_seed(seed)
    scores = torch.rand(100, 12, generator=draw).argsort(dim=1).float()
    if num_scores < 12:
        scores = torch.randint(num_scores, scores.shape, generator=draw).float()
    labels = torch.randint(0, 4, scores.shape, generator=draw).float()
    labels *= torch.rand(scores.shape, generator=draw) < 0.3
    labels[1] = 0
    return scores, labels


def placed(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a rank metric sees: nan where nobody judged."""
    judged = labels > 0
    above = (scores.unsqueeze(1) > scores.unsqueeze(2)).sum(dim=2).double()
    tied = (scores.unsqueeze(1) == scores.unsqueeze(2)).sum(dim=2).double() - 1
    return above.masked_fill(~judged, torch.nan), tied.masked_fill(~judged, torch.nan), labels, judged


def judge(measure: ir_measures.Measure, labels: list[float], runs: list[list[int]]) -> list[float]:
    """A measure of each order of the same candidates."""
    qrels = [
        ir_measures.Qrel(str(number), str(place), int(label))
        for number in range(len(runs))
        for place, label in enumerate(labels)
    ]
    scored = [
        ir_measures.ScoredDoc(str(number), str(place), -float(rank))
        for number, order in enumerate(runs)
        for rank, place in enumerate(order)
    ]
    found = {int(value.query_id): value.value for value in ir_measures.iter_calc([measure], qrels, scored)}
    return [found[number] for number in range(len(runs))]


@pytest.mark.parametrize("name", NAMES)
def test_rank_metrics_agree_with_ir_measures(name: str) -> None:
    scores, labels = lists()
    expected = [
        judge(MEASURES[name], each.tolist(), [order.tolist()])[0]
        for each, order in zip(labels, scores.argsort(dim=1, descending=True), strict=True)
    ]
    values = RANK_METRICS.bind(name)(*placed(scores, labels))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_ties_count_as_the_mean_over_all_their_orders(name: str) -> None:
    draw = torch.Generator().manual_seed(3)
    scores, labels = (
        torch.randint(3, (12, 6), generator=draw).float(),
        torch.randint(3, (12, 6), generator=draw).float(),
    )
    values = RANK_METRICS.bind(name)(*placed(scores, labels))
    for row in range(12):
        orders = [
            list(order)
            for order in itertools.permutations(range(6))
            if all(scores[row, one] >= scores[row, next] for one, next in itertools.pairwise(order))
        ]
        found = judge(MEASURES[name], labels[row].tolist(), orders)
        assert values[row].item() == pytest.approx(sum(found) / len(found), abs=1e-6)


@pytest.mark.parametrize("num_scores", [2, 5, 1000])
@pytest.mark.parametrize("name", [*NAMES, EXPONENTIAL], ids=str)
def test_rank_metrics_are_metrics_of_all_scores(name: str, num_scores: int) -> None:
    scores, labels = lists(seed=1, num_scores=num_scores)
    expected = METRICS.bind(name)(scores, labels, torch.ones_like(labels, dtype=torch.bool))
    torch.testing.assert_close(RANK_METRICS.bind(name)(*placed(scores, labels)), expected, atol=2e-6, rtol=1e-5)


def test_relevant_candidates_that_tie_with_one_another_cost_nothing() -> None:
    above, tied = torch.zeros(1, 4), torch.full((1, 4), 3.0)
    labels, relevant = torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool)
    for name in ("mrr", "hit", "ndcg@10", "recall@4"):
        assert RANK_METRICS.bind(name)(above, tied, labels, relevant).item() == pytest.approx(1)


def reciprocal_rank(above: int, size: int, relevant: int) -> float:
    """The expected reciprocal rank of the first of the relevant ones in a tie, in fractions."""
    chances = (Fraction(comb(size - place, relevant - 1), comb(size, relevant)) for place in range(1, size + 1))
    return float(sum(chance / (above + place) for place, chance in enumerate(chances, start=1)))


@pytest.mark.parametrize(("above", "size", "relevant"), [(0, 300, 5), (7, 6000, 1), (3, 9000, 4), (2000, 5000, 30)])
def test_long_ties_are_as_exact(above: int, size: int, relevant: int) -> None:
    place = torch.full((1, relevant), float(above)), torch.full((1, relevant), size - 1.0)
    found = rank_metrics.mrr(*place, torch.ones(1, relevant), torch.ones(1, relevant) > 0).item()
    assert found == pytest.approx(reciprocal_rank(above, size, relevant), abs=1e-6)


@pytest.mark.parametrize(("above", "size"), [(0, 10_000), (4000, 200), (5_000_000, 1), (123_456, 1_000_000)])
def test_ndcg_far_down_is_the_sum_of_its_discounts(above: int, size: int) -> None:
    place = torch.tensor([[float(above)]], dtype=torch.float64), torch.tensor([[size - 1.0]], dtype=torch.float64)
    expected = (1 / torch.arange(above + 2, above + size + 2, dtype=torch.float64).log2()).mean().item()
    found = rank_metrics.ndcg(*place, torch.ones(1, 1), torch.ones(1, 1) > 0).item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_ranks_over_large_pools_are_exact() -> None:
    place, one = (torch.tensor([[2.0**25]], dtype=torch.float64), torch.zeros(1, 1)), torch.ones(1, 1)
    assert rank_metrics.mrr(*place, one, one > 0).item() == pytest.approx(1 / (2**25 + 1), rel=1e-7)
    assert rank_metrics.recall(*place, one, one > 0, k=2**25).item() == 0


def test_a_candidate_that_is_nowhere_is_never_found_but_was_there_to_find() -> None:
    above, tied = torch.tensor([[0.0, torch.inf]]), torch.zeros(1, 2)
    labels, relevant = torch.tensor([[1.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool)
    values = {name: RANK_METRICS.bind(name)(above, tied, labels, relevant).item() for name in NAMES}
    ideal = 1 + 1 / torch.tensor(3.0).log2().item()
    assert values == pytest.approx(
        {"hit": 1, "hit@3": 1, "mrr": 1, "mrr@3": 1, "recall@1": 0.5, "recall@3": 0.5, "precision@3": 1 / 3}
        | {"ndcg": 1 / ideal, "ndcg@3": 1 / ideal}
    )
    alone = rank_metrics.mrr(above[:, 1:], tied[:, 1:], labels[:, 1:], relevant[:, 1:])
    assert alone.item() == 0


def test_what_stands_below_the_depth_is_nowhere() -> None:
    places = Places(torch.tensor([[9.0, 10.0, 500.0]]), torch.tensor([[3.0, 0.0, 2.0]])).to_depth(10)
    assert places.above.tolist() == [[9, torch.inf, torch.inf]] and places.tied.tolist() == [[3, 0, 0]]


@pytest.mark.parametrize("name", NAMES)
def test_places_of_candidates_that_nobody_judged_never_matter(name: str) -> None:
    metric = RANK_METRICS.bind(name)
    above, tied, labels, judged = placed(*lists())
    expected = metric(above, tied, labels, judged)
    for garbage in (0.0, 1.0, torch.inf, -3.0):
        changed = above.masked_fill(~judged, garbage), tied.masked_fill(~judged, garbage)
        assert torch.equal(metric(*changed, labels, judged), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [torch.nan, -1.0])
def test_what_is_no_place_is_refused(name: str, place: float) -> None:
    wrong, none, one = torch.tensor([[1.0], [place]]), torch.zeros(2, 1), torch.ones(2, 1)
    for above, tied in ((wrong, none), (none, wrong)):
        with pytest.raises(ValueError, match="0 or more candidates above and beside them"):
            RANK_METRICS.bind(name)(above, tied, one, one > 0)


@pytest.mark.parametrize("name", ["hit", "mrr", "ndcg", "recall", "precision"])
def test_a_cutoff_below_1_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        RANK_METRICS.get(name)(*[torch.ones(1, 2)] * 3, torch.ones(1, 2) > 0, k=0)
