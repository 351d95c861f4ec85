"""Metrics against ir-measures where scores differ, and against the mean over all orders where they tie."""

import itertools
import math
import random

import ir_measures
import pytest
import torch

from ranking import metrics
from registry import METRICS

NAMES = ["hit", "hit@3", "mrr", "mrr@3", "ndcg", "ndcg@3", "recall@3", "precision@3"]
EXPONENTIAL = {"name": "ndcg", "k": 4, "gain": "exponential"}
MEASURES = {
    "hit": ir_measures.Success @ 1,
    "hit@3": ir_measures.Success @ 3,
    "mrr": ir_measures.RR,
    "mrr@3": ir_measures.RR @ 3,
    "ndcg": ir_measures.nDCG,
    "ndcg@3": ir_measures.nDCG @ 3,
    "recall@3": ir_measures.R @ 3,
    "precision@3": ir_measures.P @ 3,
}


def random_batch(
    num_groups: int, num_candidates: int, num_scores: int | None, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Graded labels, nan where the mask is False, and no ties unless there are fewer scores than candidates."""
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
    """The mean over all orders in which no candidate comes before one with a higher score."""
    places = range(len(scores))
    orders = [
        order
        for order in itertools.permutations(places)
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return sum(metric_of_order(name, [labels[place] for place in order]) for order in orders) / len(orders)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_agree_with_ir_measures(name: str) -> None:
    scores, labels, mask = random_batch(200, 12, num_scores=None)
    qrels, run = [], []
    for query, candidate in mask.nonzero().tolist():
        identity = str(query), str(candidate)
        qrels.append(ir_measures.Qrel(*identity, int(labels[query, candidate])))
        run.append(ir_measures.ScoredDoc(*identity, scores[query, candidate].item()))
    expected = {int(value.query_id): value.value for value in ir_measures.iter_calc([MEASURES[name]], qrels, run)}
    values = METRICS.bind(name)(scores, labels, mask)
    assert values.dtype == torch.float32
    torch.testing.assert_close(
        values, torch.tensor([expected.get(query, 0.0) for query in range(200)]), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("num_scores", [1, 2, 3, None])
@pytest.mark.parametrize("name", [*NAMES, "exponential@4"])
def test_ties_count_as_the_mean_over_all_their_orders(name: str, num_scores: int | None) -> None:
    scores, labels, mask = random_batch(12, 6, num_scores)
    values = METRICS.bind(EXPONENTIAL if name == "exponential@4" else name)(scores, labels, mask)
    expected = [
        mean_over_orders(name, s[exists].tolist(), y[exists].tolist())
        for s, y, exists in zip(scores, labels, mask, strict=True)
    ]
    torch.testing.assert_close(values, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_a_constant_scorer_gets_what_random_order_gets() -> None:
    labels, mask = torch.zeros(1, 10), torch.ones(1, 10, dtype=torch.bool)
    labels[0, 3] = 1
    assert metrics.hit(torch.full((1, 10), 0.3), labels, mask).item() == pytest.approx(0.1, abs=1e-8)
    harmonic = sum(1 / rank for rank in range(1, 11))
    assert metrics.mrr(torch.full((1, 10), 0.3), labels, mask).item() == pytest.approx(harmonic / 10, rel=1e-6)
    assert metrics.recall(torch.full((1, 10), 0.3), labels, mask, k=4).item() == pytest.approx(0.4, rel=1e-6)


def test_a_perfect_order_is_exactly_1() -> None:
    labels = torch.rand(50, 1000, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(labels, dtype=torch.bool)
    for name in ("hit", "mrr", "ndcg", "ndcg@10", "precision@10", "recall@1000"):
        torch.testing.assert_close(METRICS.bind(name)(labels, labels, mask), torch.ones(50), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 0.0])
def test_masked_candidates_never_matter(name: str, garbage: float) -> None:
    metric = METRICS.bind(name)
    scores, labels, mask = random_batch(30, 6, num_scores=3)
    expected = metric(scores, labels, mask)
    assert torch.equal(metric(scores.masked_fill(~mask, garbage), labels.masked_fill(~mask, garbage), mask), expected)
    longer = torch.nn.functional.pad(scores, (3, 3), value=garbage), torch.nn.functional.pad(labels, (3, 3), value=9.0)
    torch.testing.assert_close(metric(*longer, torch.nn.functional.pad(mask, (3, 3))), expected)


@pytest.mark.parametrize("name", NAMES)
def test_values_follow_their_candidates_under_permutation(name: str) -> None:
    batch = random_batch(30, 6, num_scores=3)
    order = random.Random(0).sample(range(6), k=6)
    metric = METRICS.bind(name)
    torch.testing.assert_close(metric(*(tensor[:, order] for tensor in batch)), metric(*batch))


def test_infinite_scores_of_existing_candidates_are_ordinary_ones() -> None:
    scores, labels = torch.tensor([[-torch.inf, torch.inf, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True]])
    assert metrics.mrr(scores, labels, mask).item() == pytest.approx(1 / 3)
    assert metrics.mrr(scores, labels, torch.tensor([[True, True, False]])).item() == pytest.approx(1 / 2)


def test_a_cutoff_beyond_the_list_is_no_cutoff() -> None:
    scores, labels, mask = random_batch(20, 5, num_scores=3)
    torch.testing.assert_close(metrics.mrr(scores, labels, mask, k=99), metrics.mrr(scores, labels, mask))
    torch.testing.assert_close(metrics.ndcg(scores, labels, mask, k=99), metrics.ndcg(scores, labels, mask))


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_score_is_refused_with_its_row(name: str) -> None:
    scores, labels, mask = torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool)
    scores[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"nan, so they have no order \(rows 1 of the batch\)"):
        METRICS.bind(name)(scores, labels, mask)


@pytest.mark.parametrize("name", ["hit", "mrr", "ndcg", "recall", "precision"])
def test_a_cutoff_below_1_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        METRICS.get(name)(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), k=0)


def test_metrics_are_named_as_a_yaml_writes_them() -> None:
    names = ["hit", "mrr", "mrr@10", "ndcg@10", "recall@5", EXPONENTIAL]
    assert [metrics.metric_name(name) for name in names] == [
        "hit@1", "mrr", "mrr@10", "ndcg@10", "recall@5", "ndcg@4_exponential"
    ]  # fmt: skip
