import ir_measures
import pytest
import torch
from ir_measures import RR, Qrel, ScoredDoc

from ranking.batch import Batch
from ranking.evaluation import Evaluation, EvaluationState, Scored
from ranking.metrics import mrr


def evaluation(
    group: list[int], slot: list[list[int]], labels: list[list[float]], scores: list[list[float]]
) -> Evaluation:
    return Evaluation(torch.tensor(group), torch.tensor(slot), torch.tensor(labels), torch.tensor(scores), {})


def test_several_draws_of_a_query_count_as_their_mean() -> None:
    ours = evaluation([4, 2, 4], [[0, 1], [2, 3], [0, 1]], [[1.0, 0.0]] * 3, [[2.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    assert ours.queries.tolist() == [2, 4]
    assert ours.per_query({"mrr": mrr})["mrr"].tolist() == [0.5, 0.75]


def test_batches_of_any_size_and_order_give_what_ir_measures_gives() -> None:
    draw = torch.Generator().manual_seed(1)
    labels = (torch.rand(40, 6, generator=draw) > 0.7).float()
    scores = torch.rand(40, 6, generator=draw)
    slot = torch.arange(240).view(40, 6)
    slot[torch.rand(40, 6, generator=draw) < 0.2] = -1
    slot[:, 0] = torch.arange(40) * 6
    state = EvaluationState()
    for part in torch.randperm(40, generator=draw).split(7):
        batch = Batch(labels=labels[part], mask=slot[part] >= 0, group=part, slot=slot[part])
        state.update(batch, scores[part])
    ours = state.compute()
    qrels = [
        Qrel(str(g), str(s), int(labels[g, k])) for g in range(40) for k, s in enumerate(slot[g].tolist()) if s >= 0
    ]
    run = [
        ScoredDoc(str(g), str(s), float(scores[g, k]))
        for g in range(40)
        for k, s in enumerate(slot[g].tolist())
        if s >= 0
    ]
    theirs = ir_measures.calc_aggregate([RR], qrels, run)[RR]
    assert float(ours.per_query({"mrr": mrr})["mrr"].mean()) == pytest.approx(theirs, abs=1e-6)


def test_a_score_that_is_no_number_is_refused_with_its_groups() -> None:
    batch = Batch(
        labels=torch.zeros(1, 2),
        mask=torch.tensor([[True, False]]),
        group=torch.tensor([5]),
        slot=torch.tensor([[1, -1]]),
    )
    EvaluationState().update(batch, torch.tensor([[0.0, torch.nan]]))
    with pytest.raises(ValueError, match=r"groups \[5\] as nan"):
        EvaluationState().update(batch, torch.tensor([[torch.nan, 0.0]]))


def test_standings_are_those_of_a_sort_with_the_ranks_of_a_reference_beside_them() -> None:
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    slot = torch.tensor([[4, 5, 6, -1], [7, 8, 9, 10]])
    labels = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    scores = torch.tensor([[0.5, 0.25, 1.0, 9.0], [4.0, 3.0, 2.0, 1.0]])
    level = Scored(torch.tensor([[1.0, 1.0, 0.0, 9.0], [0.0] * 4]), labels, mask)
    other = Scored(torch.zeros(2, 2), torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    found = Evaluation(torch.tensor([3, 8]), slot, labels, scores, {"level": level, "other": other})
    assert found.standings(3, "level", 1) == [(6, 1, 1.0, 0.0, (3, 3)), (5, 3, 0.25, 1.0, (1, 2))]
    assert [each.ranks for each in found.standings(8, "other", 4)] == [None] * 4
    assert [each.candidate for each in found.standings(8, None, 1)] == [7, 9, 10]
