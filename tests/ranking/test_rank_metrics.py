"""Metrics of ranks against ir-measures, and against metrics of all scores where none tie."""

import ir_measures
import pytest
import torch
from torch import Tensor

from ranking import rank_metrics
from registry import METRICS, RANK_METRICS

NAMES = ["hit", "hit@3", "mrr", "mrr@3", "ndcg", "ndcg@3", "recall@1", "recall@3"]
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
}


def lists(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores of 12 candidates of 100 queries, none of them equal, and graded labels; the second query has no label."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.rand(100, 12, generator=draw).argsort(dim=1).float()
    labels = torch.randint(0, 4, scores.shape, generator=draw).float()
    labels *= torch.rand(scores.shape, generator=draw) < 0.3
    labels[1] = 0
    return scores, labels


def of_relevant(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks and labels of the relevant candidates, nan and 9 where there is none."""
    ranks = 1 + (scores.unsqueeze(1) > scores.unsqueeze(2)).sum(dim=2)
    mask = labels > 0
    return ranks.double().masked_fill(~mask, torch.nan), labels.masked_fill(~mask, 9.0), mask


@pytest.mark.parametrize("name", NAMES)
def test_rank_metrics_agree_with_ir_measures(name: str) -> None:
    scores, labels = lists()
    qrels = [
        ir_measures.Qrel(str(query), str(place), int(labels[query, place]))
        for query, place in (labels > 0).nonzero().tolist()
    ]
    run = [
        ir_measures.ScoredDoc(str(query), str(place), scores[query, place].item())
        for query in range(100)
        for place in range(12)
    ]
    expected = {int(value.query_id): value.value for value in ir_measures.iter_calc([MEASURES[name]], qrels, run)}
    ranks, labels, mask = of_relevant(scores, labels)
    values = RANK_METRICS.bind(name)(ranks.float(), labels, mask)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, torch.tensor([expected.get(query, 0.0) for query in range(100)]))


@pytest.mark.parametrize("name", [*NAMES, EXPONENTIAL], ids=str)
def test_rank_metrics_are_metrics_of_all_scores(name: str) -> None:
    scores, labels = lists(seed=1)
    expected = METRICS.bind(name)(scores, labels, torch.ones_like(labels, dtype=torch.bool))
    torch.testing.assert_close(RANK_METRICS.bind(name)(*of_relevant(scores, labels)), expected)


def test_half_ranks_of_ties_are_taken_as_they_are() -> None:
    ranks, labels, mask = torch.tensor([[2.5, 4.0]]), torch.tensor([[1.0, 3.0]]), torch.ones(1, 2, dtype=torch.bool)
    discounts = 1 / torch.tensor([3.5, 5.0]).log2()
    ideal = 3 + 1 / torch.tensor(3.0).log2()
    assert rank_metrics.mrr(ranks, labels, mask).item() == pytest.approx(0.4)
    assert rank_metrics.hit(ranks, labels, mask, k=2).item() == 0
    assert rank_metrics.hit(ranks, labels, mask, k=3).item() == 1
    assert rank_metrics.recall(ranks, labels, mask, k=3).item() == 0.5
    assert rank_metrics.ndcg(ranks, labels, mask).item() == pytest.approx((discounts[0] + 3 * discounts[1]) / ideal)


def test_ranks_over_large_pools_are_exact() -> None:
    ranks = torch.tensor([[2.0**25 + 1]], dtype=torch.float64)
    yes = torch.ones(1, 1, dtype=torch.bool)
    assert rank_metrics.mrr(ranks, torch.ones(1, 1), yes).item() == pytest.approx(1 / (2**25 + 1), rel=1e-7)
    assert rank_metrics.recall(ranks, torch.ones(1, 1), yes, k=2**25).item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_masked_places_and_labels_of_0_never_matter(name: str) -> None:
    metric = RANK_METRICS.bind(name)
    ranks, labels, mask = of_relevant(*lists())
    expected = metric(ranks, labels, mask)
    for garbage in (0.0, 1.0, torch.inf, -3.0):
        assert torch.equal(
            metric(ranks.masked_fill(~mask, garbage), labels.masked_fill(~mask, garbage), mask), expected
        )
    assert torch.equal(metric(ranks.nan_to_num(1.0), labels.masked_fill(~mask, 0), torch.ones_like(mask)), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rank", [torch.nan, 0.5, -1.0])
def test_what_is_no_rank_is_refused(name: str, rank: float) -> None:
    yes = torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="ranks of existing candidates must be 1 or more"):
        RANK_METRICS.bind(name)(torch.tensor([[1.0], [rank]]), torch.ones(2, 1), yes)


@pytest.mark.parametrize("name", ["hit", "mrr", "ndcg", "recall"])
def test_a_cutoff_below_1_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        RANK_METRICS.bind({"name": name, "k": 0})(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2) > 0)
