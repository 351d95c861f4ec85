"""Metrics of scores and of places, against ir-measures and against the mean over every order of what ties."""

import itertools
import math
import random
from collections.abc import Iterator
from fractions import Fraction
from math import comb
from typing import Any

import ir_measures
import pytest
import torch
from torch import Tensor

from ranking import metrics
from ranking.evaluation import Evaluation
from registry import METRICS

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


def random_batch(
    num_groups: int, num_candidates: int, num_scores: int | None, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Graded labels, nan where the mask is False, and no ties unless there are fewer scores than candidates.

    The first group has no candidates, the second none that is relevant.
    """
    draw = torch.Generator().manual_seed(seed)
    scores = torch.rand(num_groups, num_candidates, generator=draw).argsort().float()
    if num_scores is not None:
        scores = scores % num_scores
    labels = torch.randint(0, 4, scores.shape, generator=draw).float() * (
        torch.rand(scores.shape, generator=draw) < 0.4
    )
    mask = torch.rand(scores.shape, generator=draw) < 0.8
    mask[0], labels[1] = False, 0
    return scores.masked_fill(~mask, torch.nan), labels.masked_fill(~mask, torch.nan), mask


def value(metric: Any, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """A metric of each group, from an evaluation of its scores."""
    slot = torch.arange(scores.numel()).view(scores.shape).masked_fill(~mask, -1)
    evaluation = Evaluation(torch.arange(len(scores)), slot, labels, scores, {})
    return evaluation.per_query({"it": METRICS.bind(metric)})["it"].float()


def placed(scores: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a metric sees, counted pair by pair; nan where nobody judged."""
    judged, there = mask & (labels > 0), mask.unsqueeze(1)
    above = ((scores.unsqueeze(1) > scores.unsqueeze(2)) & there).sum(dim=2).double()
    tied = ((scores.unsqueeze(1) == scores.unsqueeze(2)) & there).sum(dim=2).double() - 1
    labels = labels.masked_fill(~mask, 0)
    return above.masked_fill(~judged, torch.nan), tied.masked_fill(~judged, torch.nan), labels, judged


def orders_of(scores: list[float]) -> Iterator[tuple[int, ...]]:
    """Every order in which no candidate comes before one with a higher score."""
    for order in itertools.permutations(range(len(scores))):
        if all(scores[one] >= scores[next] for one, next in itertools.pairwise(order)):
            yield order


def metric_of_order(name: str, labels: list[float]) -> float:
    """The metric by its definition, of labels in the order in which candidates are ranked."""
    name, _, cutoff = name.partition("@")
    exponential = name == "exponential"
    k = int(cutoff) if cutoff else 1 if name == "hit" else len(labels)
    relevant = [label > 0 for label in labels]
    if not any(relevant):
        return 0.0
    if name == "mrr":
        rank = relevant.index(True) + 1
        return 1 / rank if rank <= k else 0.0
    if name in ("ndcg", "exponential"):
        gains = [2**label - 1 if exponential else label for label in labels]
        ideal = sum(gain / math.log2(2 + place) for place, gain in enumerate(sorted(gains, reverse=True)[:k]))
        return sum(gain / math.log2(2 + place) for place, gain in enumerate(gains[:k])) / ideal
    found = sum(relevant[:k])
    return {"hit": float(found > 0), "recall": found / sum(relevant), "precision": found / k}[name]


def mean_over_orders(name: str, scores: list[float], labels: list[float]) -> float:
    values = [metric_of_order(name, [labels[place] for place in order]) for order in orders_of(scores)]
    return sum(values) / len(values)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_agree_with_ir_measures(name: str) -> None:
    scores, labels, mask = random_batch(200, 12, num_scores=None)
    qrels, run = [], []
    for query, candidate in mask.nonzero().tolist():
        identity = str(query), str(candidate)
        qrels.append(ir_measures.Qrel(*identity, int(labels[query, candidate])))
        run.append(ir_measures.ScoredDoc(*identity, scores[query, candidate].item()))
    found = {int(value.query_id): value.value for value in ir_measures.iter_calc([MEASURES[name]], qrels, run)}
    expected = torch.tensor([found.get(query, 0.0) for query in range(200)])
    torch.testing.assert_close(value(name, scores, labels, mask), expected, atol=1e-6, rtol=1e-5)
    values = METRICS.bind(name)(*placed(scores, labels, mask))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_scores", [1, 2, 3, None])
@pytest.mark.parametrize("name", [*NAMES, "exponential@4"])
def test_ties_count_as_the_mean_over_all_their_orders(name: str, num_scores: int | None) -> None:
    scores, labels, mask = random_batch(12, 6, num_scores)
    values = value(EXPONENTIAL if name == "exponential@4" else name, scores, labels, mask)
    expected = [
        mean_over_orders(name, s[exists].tolist(), y[exists].tolist())
        for s, y, exists in zip(scores, labels, mask, strict=True)
    ]
    torch.testing.assert_close(values, torch.tensor(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_ties_count_as_the_mean_of_what_ir_measures_gives_for_each_order(name: str) -> None:
    draw = torch.Generator().manual_seed(3)
    scores, labels = (torch.randint(3, (12, 6), generator=draw).float() for _ in range(2))
    values = METRICS.bind(name)(*placed(scores, labels, torch.ones_like(labels, dtype=torch.bool)))
    for row in range(12):
        qrels, run = [], []
        for number, order in enumerate(orders_of(scores[row].tolist())):
            qrels += [ir_measures.Qrel(str(number), str(place), int(labels[row, place])) for place in order]
            run += [ir_measures.ScoredDoc(str(number), str(place), -float(rank)) for rank, place in enumerate(order)]
        found = [value.value for value in ir_measures.iter_calc([MEASURES[name]], qrels, run)]
        assert values[row].item() == pytest.approx(sum(found) / len(found), abs=1e-6)


@pytest.mark.parametrize("num_scores", [2, 5, None])
@pytest.mark.parametrize("name", [*NAMES, EXPONENTIAL], ids=str)
def test_metrics_of_scores_are_those_of_places_counted_pair_by_pair(name: Any, num_scores: int | None) -> None:
    batch = random_batch(100, 12, num_scores, seed=1)
    torch.testing.assert_close(METRICS.bind(name)(*placed(*batch)), value(name, *batch), atol=2e-6, rtol=1e-5)


def test_a_constant_scorer_gets_what_random_order_gets() -> None:
    scores, labels, mask = torch.full((1, 10), 0.3), torch.zeros(1, 10), torch.ones(1, 10, dtype=torch.bool)
    labels[0, 3] = 1
    assert value("hit", scores, labels, mask).item() == pytest.approx(0.1, abs=1e-8)
    harmonic = sum(1 / rank for rank in range(1, 11))
    assert value("mrr", scores, labels, mask).item() == pytest.approx(harmonic / 10, rel=1e-6)
    assert value("recall@4", scores, labels, mask).item() == pytest.approx(0.4, rel=1e-6)


def test_a_perfect_order_is_exactly_1() -> None:
    labels = torch.rand(50, 1000, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(labels, dtype=torch.bool)
    for name in ("hit", "mrr", "ndcg", "ndcg@10", "precision@10", "recall@1000"):
        torch.testing.assert_close(value(name, labels, labels, mask), torch.ones(50), atol=1e-6, rtol=0)


def test_relevant_candidates_that_tie_with_one_another_cost_nothing() -> None:
    above, tied = torch.zeros(1, 4), torch.full((1, 4), 3.0)
    labels, relevant = torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool)
    for name in ("mrr", "hit", "ndcg@10", "recall@4"):
        assert METRICS.bind(name)(above, tied, labels, relevant).item() == pytest.approx(1)


def reciprocal_rank(above: int, size: int, relevant: int) -> float:
    """The expected reciprocal rank of the first of the relevant ones in a tie, in fractions."""
    chances = (Fraction(comb(size - place, relevant - 1), comb(size, relevant)) for place in range(1, size + 1))
    return float(sum(chance / (above + place) for place, chance in enumerate(chances, start=1)))


@pytest.mark.parametrize(("above", "size", "relevant"), [(0, 300, 5), (7, 6000, 1), (3, 9000, 4), (2000, 5000, 30)])
def test_long_ties_are_as_exact(above: int, size: int, relevant: int) -> None:
    place = torch.full((1, relevant), float(above)), torch.full((1, relevant), size - 1.0)
    found = metrics.mrr(*place, torch.ones(1, relevant), torch.ones(1, relevant) > 0).item()
    assert found == pytest.approx(reciprocal_rank(above, size, relevant), abs=1e-6)


@pytest.mark.parametrize(("above", "size"), [(0, 10_000), (4000, 200), (5_000_000, 1), (123_456, 1_000_000)])
def test_ndcg_far_down_is_the_sum_of_its_discounts(above: int, size: int) -> None:
    place = torch.tensor([[float(above)]], dtype=torch.float64), torch.tensor([[size - 1.0]], dtype=torch.float64)
    expected = (1 / torch.arange(above + 2, above + size + 2, dtype=torch.float64).log2()).mean().item()
    found = metrics.ndcg(*place, torch.ones(1, 1), torch.ones(1, 1) > 0).item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_ranks_over_large_pools_are_exact() -> None:
    place, one = (torch.tensor([[2.0**25]], dtype=torch.float64), torch.zeros(1, 1)), torch.ones(1, 1)
    assert metrics.mrr(*place, one, one > 0).item() == pytest.approx(1 / (2**25 + 1), rel=1e-7)
    assert metrics.recall(*place, one, one > 0, k=2**25).item() == 0


def test_a_candidate_that_is_nowhere_is_never_found_but_was_there_to_find() -> None:
    above, tied = torch.tensor([[0.0, torch.inf]]), torch.zeros(1, 2)
    labels, relevant = torch.tensor([[1.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool)
    values = {name: METRICS.bind(name)(above, tied, labels, relevant).item() for name in NAMES}
    ideal = 1 + 1 / torch.tensor(3.0).log2().item()
    assert values == pytest.approx(
        {"hit": 1, "hit@3": 1, "mrr": 1, "mrr@3": 1, "recall@1": 0.5, "recall@3": 0.5, "precision@3": 1 / 3}
        | {"ndcg": 1 / ideal, "ndcg@3": 1 / ideal}
    )
    alone = metrics.mrr(above[:, 1:], tied[:, 1:], labels[:, 1:], relevant[:, 1:])
    assert alone.item() == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 0.0])
def test_masked_candidates_never_matter(name: str, garbage: float) -> None:
    scores, labels, mask = random_batch(30, 6, num_scores=3)
    expected = value(name, scores, labels, mask)
    filled = scores.masked_fill(~mask, garbage), labels.masked_fill(~mask, garbage)
    assert torch.equal(value(name, *filled, mask), expected)
    longer = torch.nn.functional.pad(scores, (3, 3), value=garbage), torch.nn.functional.pad(labels, (3, 3), value=9.0)
    torch.testing.assert_close(value(name, *longer, torch.nn.functional.pad(mask, (3, 3))), expected)


@pytest.mark.parametrize("name", [*NAMES, EXPONENTIAL], ids=str)
def test_labels_below_0_and_labels_that_are_nan_count_as_0(name: Any) -> None:
    scores, labels, mask = random_batch(30, 6, num_scores=3)
    expected = value(name, scores, labels, mask)
    for other in (-2.0, torch.nan):
        assert torch.equal(value(name, scores, labels.masked_fill(labels == 0, other), mask), expected)


@pytest.mark.parametrize("name", NAMES)
def test_places_of_candidates_that_nobody_judged_never_matter(name: str) -> None:
    metric = METRICS.bind(name)
    above, tied, labels, judged = placed(*random_batch(100, 12, num_scores=None))
    expected = metric(above, tied, labels, judged)
    for garbage in (0.0, 1.0, torch.inf, -3.0):
        changed = above.masked_fill(~judged, garbage), tied.masked_fill(~judged, garbage)
        assert torch.equal(metric(*changed, labels, judged), expected)


@pytest.mark.parametrize("name", NAMES)
def test_values_follow_their_candidates_under_permutation(name: str) -> None:
    batch = random_batch(30, 6, num_scores=3)
    order = random.Random(0).sample(range(6), k=6)
    torch.testing.assert_close(value(name, *(tensor[:, order] for tensor in batch)), value(name, *batch))


def test_infinite_scores_of_existing_candidates_are_ordinary_ones() -> None:
    scores, labels = torch.tensor([[-torch.inf, torch.inf, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True]])
    assert value("mrr", scores, labels, mask).item() == pytest.approx(1 / 3)
    assert value("mrr", scores, labels, torch.tensor([[True, True, False]])).item() == pytest.approx(1 / 2)


def test_a_cutoff_beyond_the_list_is_no_cutoff() -> None:
    batch = random_batch(20, 5, num_scores=3)
    torch.testing.assert_close(value("mrr@99", *batch), value("mrr", *batch))
    torch.testing.assert_close(value("ndcg@99", *batch), value("ndcg", *batch))
    torch.testing.assert_close(value("precision@99", *batch) * 99, value("precision@5", *batch) * 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [torch.nan, -1.0])
def test_invalid_places_are_refused(name: str, place: float) -> None:
    wrong, none, one = torch.tensor([[1.0], [place]]), torch.zeros(2, 1), torch.ones(2, 1)
    for above, tied in ((wrong, none), (none, wrong)):
        with pytest.raises(ValueError, match="0 or more candidates above and beside them"):
            METRICS.bind(name)(above, tied, one, one > 0)


@pytest.mark.parametrize("name", ["hit", "mrr", "ndcg", "recall", "precision"])
def test_a_cutoff_below_1_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        METRICS.get(name)(*[torch.ones(1, 2)] * 3, torch.ones(1, 2) > 0, k=0)


@pytest.mark.parametrize("num_scores", [1, 2, None])
def test_a_win_rate_is_the_mean_preference_of_the_candidates_that_share_the_first_place(num_scores: int | None) -> None:
    scores, labels, mask = random_batch(100, 8, num_scores)
    labels = labels / 3
    found = value("win_rate", scores, labels, mask)
    for row, (score, label, there) in enumerate(zip(scores.tolist(), labels.tolist(), mask.tolist(), strict=True)):
        pairs = [(s, y) for s, y, exists in zip(score, label, there, strict=True) if exists]
        top = [y for s, y in pairs if s == max(s for s, _ in pairs)]
        assert found[row].item() == pytest.approx(sum(top) / len(top) if top else 0, abs=1e-6)


def test_a_win_rate_of_unjudged_or_absent_candidates_is_0() -> None:
    labels, zero = torch.tensor([[torch.nan, 1.0], [0.0, 0.4]]), torch.zeros(2, 2)
    above = torch.tensor([[0.0, 1.0], [torch.inf, torch.inf]])
    assert metrics.win_rate(above, zero, labels, labels > 0).tolist() == [0, 0]


@pytest.mark.parametrize("label", [-0.1, 1.5])
def test_a_win_rate_of_labels_that_are_no_preferences_is_refused(label: float) -> None:
    zero, labels = torch.zeros(1, 2), torch.tensor([[label, 0.5]])
    with pytest.raises(ValueError, match=r"win_rate needs preferences in \[0, 1\] as labels"):
        metrics.win_rate(zero, zero, labels, labels > 0)


def test_metrics_are_named_as_a_yaml_writes_them() -> None:
    names = ["hit", "mrr", "mrr@10", "ndcg@10", "recall@5", EXPONENTIAL]
    assert [metrics.metric_name(name) for name in names] == [
        "hit@1", "mrr", "mrr@10", "ndcg@10", "recall@5", "ndcg@4_exponential"
    ]  # fmt: skip
