"""Places in a pool, whole or own lists, against a plain sort of all scores in float64."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import ir_measures
import pytest
import torch
from torch import Tensor

from ranking.metrics import hit, mrr, ndcg, recall
from ranking.places import Places
from ranking.pools.pool_evaluation import PoolEvaluation, PoolEvaluationState, Qrels, best, ragged

NUM_CANDIDATES, DIM = 50, 8


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pool() -> Any:
    """Four queries with 2, 0, 1 and 3 qrels candidates."""
    queries = SimpleNamespace(
        relevant_offsets=torch.tensor([0, 2, 2, 3, 6]),
        relevant=torch.tensor([4, 9, 30, 1, 2, 3]),
        label=torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0, 1.0]),
        missing_offsets=torch.tensor([0, 0, 1, 1, 3]),
        missing=torch.tensor([1.0, 2.0, 1.0]),
    )
    return SimpleNamespace(queries=queries, min_label=0)


def brute_force(scores: list[float], target: int) -> tuple[float, float]:
    """How many others are above a candidate, and how many are tied with it."""
    return sum(score > scores[target] for score in scores), sum(score == scores[target] for score in scores) - 1


def at(places: Places, *index: int) -> tuple[float, float]:
    return float(places.above[index]), float(places.tied[index])


def test_relevant_candidates_are_those_of_each_query(pool: Any) -> None:
    qrels = Qrels.of(pool, torch.tensor([3, 1, 0]))
    assert qrels.mask.tolist() == [[True, True, True], [False] * 3, [True, True, False]]
    assert qrels.rows[qrels.mask].tolist() == [1, 2, 3, 4, 9]
    assert qrels.labels[qrels.mask].tolist() == [1, 3, 1, 1, 2]


def test_places_in_the_pool_are_those_of_a_sort(pool: Any) -> None:
    qrels = Qrels.of(pool, torch.tensor([0, 2, 3]))
    table, vectors = random(NUM_CANDIDATES, DIM, seed=0), random(3, 2, DIM, seed=1)
    table[9] = table[4]  # a tie
    removed = torch.tensor([[0, 5], [2, 7], [2, 1]])
    found = qrels.places(vectors, table, removed=torch.cat([removed[:2]]))
    for variant in range(2):
        for place, nth in qrels.mask.nonzero().tolist():
            gone = {row for query, row in removed[:2].tolist() if query == place}
            scores = (table.double() @ vectors[place, variant].double()).tolist()
            kept = [score for row, score in enumerate(scores) if row not in gone]
            row = int(qrels.rows[place, nth])
            target = row - sum(other < row for other in gone)
            assert at(found, variant, place, nth) == brute_force(kept, target)


def test_places_in_own_lists_leave_all_others_out(pool: Any) -> None:
    qrels = Qrels.of(pool, torch.tensor([0, 2]))
    table, vectors = random(NUM_CANDIDATES, DIM, seed=0), random(2, 1, DIM, seed=1)
    own = torch.tensor([[4, 9, 11, 40], [7, 30, -1, -1]])
    found = qrels.places(vectors, table, own=own)
    scores = [(table[own[place][own[place] >= 0]] @ vectors[place, 0]).tolist() for place in range(2)]
    assert [at(found, 0, 0, nth) for nth in range(2)] == [brute_force(scores[0], 0), brute_force(scores[0], 1)]
    assert at(found, 0, 1, 0) == brute_force(scores[1], 1)


@pytest.mark.parametrize("variants", [1, 2, 7])
@pytest.mark.parametrize("length", [2, 4, 10, 50])
def test_equal_candidates_of_own_lists_tie(pool: Any, variants: int, length: int) -> None:
    half = torch.stack([torch.randperm(NUM_CANDIDATES, generator=torch.Generator().manual_seed(n)) for n in range(30)])
    table = random(NUM_CANDIDATES, 384, seed=0).repeat(2, 1)  # everything is there twice
    own = torch.cat([half[:, : length // 2], half[:, : length // 2] + NUM_CANDIDATES], dim=1)
    own = own[:, torch.randperm(length, generator=torch.Generator().manual_seed(1))]
    judged = torch.ones(30, 1)
    qrels = Qrels(torch.arange(30), own[:, :1], judged, judged > 0, torch.zeros(30, 1))
    vectors = random(30, 1, 384, seed=2).repeat(1, variants, 1)
    found = qrels.places(vectors, table, own=own)
    assert found.tied.unique().tolist() == [1]
    scores, _ = best(vectors[:, 0], table, length, own=own)
    assert torch.equal(scores[:, ::2], scores[:, 1::2])


def test_a_judged_candidate_that_is_not_in_the_own_list_is_nowhere(pool: Any) -> None:
    qrels = Qrels.of(pool, torch.tensor([0]))
    table, vectors = random(NUM_CANDIDATES, DIM, seed=0), random(1, 1, DIM, seed=1)
    assert at(qrels.places(vectors, table, own=torch.tensor([[9, 11]])), 0, 0, 0) == (torch.inf, 0)


def test_the_best_of_an_own_list_come_first_and_empty_places_are_marked() -> None:
    table, vectors = random(NUM_CANDIDATES, DIM, seed=0), random(1, DIM, seed=1)
    scores, rows = best(vectors, table, 3, own=torch.tensor([[7, 30, -1, -1]]))
    expected = sorted((7, 30), key=lambda row: -float(table[row] @ vectors[0]))
    assert rows[0].tolist() == [*expected, -1]
    expected_scores = [float(table[row] @ vectors[0]) for row in expected]
    assert scores[0, :2].tolist() == pytest.approx(expected_scores, abs=1e-6)


def test_a_ragged_tensor_gives_its_rows_in_any_order() -> None:
    of, values, within = ragged(torch.tensor([0, 2, 2, 5]), torch.arange(5) * 10, torch.tensor([2, 1, 0]))
    assert (of.tolist(), values.tolist(), within.tolist()) == ([0, 0, 0, 2, 2], [20, 30, 40, 0, 10], [0, 1, 2, 0, 1])


def test_an_evaluation_knows_its_rankings_and_the_other_scorers(pool: Any) -> None:
    qrels = Qrels.of(pool, torch.tensor([0, 1]))
    places = {
        name: Places(torch.tensor([above, [torch.inf] * 2], dtype=torch.float64), torch.zeros(2, 2))
        for name, above in {"ours": [1.0, 0.0], "bm25": [7.0, 3.0]}.items()
    }
    evaluation = PoolEvaluation(
        "ours", qrels, places, torch.tensor([[3.0, 2.0], [1.0, 0.0]]), torch.tensor([[9, 4], [8, -1]])
    )
    metrics = {"mrr": mrr, "recall@1": lambda *given: recall(*given, k=1)}
    assert {name: values.tolist() for name, values in evaluation.per_query(metrics).items()} == {
        "mrr": [1.0, 0.0],
        "recall@1": [0.5, 0.0],
    }
    assert evaluation.baselines(metrics)["bm25"]["mrr"].tolist() == [0.25, 0.0]
    assert evaluation.num_missing == 1
    assert dict(evaluation.rankings()) == {0: [(9, 3.0, 2.0), (4, 2.0, 1.0)], 1: [(8, 1.0, 0.0)]}
    right, wrong = evaluation.right_and_wrong()
    assert (right.tolist(), wrong.tolist()) == ([3.0, 2.0], [1.0])


def test_a_query_that_two_processes_have_seen_counts_once() -> None:
    state = PoolEvaluationState()
    state.update(torch.tensor([5, 2]), torch.tensor([[[5.0]], [[2.0]]]))
    state.update(torch.tensor([2, 9]), torch.tensor([[[2.0]], [[9.0]]]))
    found = state.compute()
    queries, vectors = found.queries, found.vectors
    assert queries.tolist() == [2, 5, 9] and vectors.flatten().tolist() == [2, 5, 9]
    with pytest.raises(ValueError, match=r"queries \[7\] as nan"):
        state.update(torch.tensor([7]), torch.tensor([[[float("nan")]]]))


def grades_1_and_2(pool: Any, min_label: float) -> tuple[Qrels, Places]:
    """One query: grade 1 on top, grade 2 third, and grades 2 and 1 that the pool lacks."""
    pool.min_label = min_label
    qrels = replace(Qrels.of(pool, torch.tensor([0])), missing=torch.tensor([[2.0, 1.0]]))
    return qrels, Places(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))


def test_binary_metrics_count_from_min_label_and_ndcg_uses_every_grade(pool: Any) -> None:
    qrels, places = grades_1_and_2(pool, 2)
    judged = {"b": 1, "a": 2, "x": 2, "y": 1}
    qrel = [ir_measures.Qrel("q", name, grade) for name, grade in judged.items()]
    run = [ir_measures.ScoredDoc("q", name, -float(place)) for place, name in enumerate(["b", "other", "a"])]
    expected = {
        mrr: ir_measures.RR(rel=2),
        partial(recall, k=3): ir_measures.R(rel=2) @ 3,
        partial(hit, k=2): ir_measures.Success(rel=2) @ 2,
        partial(ndcg, k=10): ir_measures.nDCG @ 10,
    }
    for metric, measure in expected.items():
        [value] = ir_measures.iter_calc([measure], qrel, run)
        assert qrels.value(metric, places).item() == pytest.approx(value.value, abs=1e-6)


def test_within_the_pool_missing_candidates_do_not_count(pool: Any) -> None:
    qrels, places = grades_1_and_2(pool, 2)
    assert qrels.value(partial(recall, k=3), places).item() == 0.5
    assert qrels.value(partial(recall, k=3), places, within=True).item() == 1
    evaluation = PoolEvaluation("ours", qrels, {"ours": places}, torch.zeros(1, 1), torch.zeros(1, 1).long())
    metrics = {"recall@3": partial(recall, k=3)}
    assert evaluation.per_query(metrics)["recall@3"].item() == 0.5
    assert evaluation.within_pool(metrics)["recall@3"].item() == 1


def test_standings_are_the_best_candidates_and_the_judged_ones_below_them(pool: Any) -> None:
    qrels = Qrels.of(pool, torch.tensor([0, 1]))
    table, vectors, others = random(NUM_CANDIDATES, DIM, seed=0), random(2, 1, DIM, seed=1), random(2, 1, DIM, seed=2)
    places = {name: Places(*(each[0] for each in qrels.places(of, table))) for name, of in
              (("encoder", others), ("ranker", vectors))}  # fmt: skip
    found = PoolEvaluation("ranker", qrels, places, *best(vectors[:, 0], table, 5))
    order = (table @ vectors[0, 0]).argsort(descending=True).tolist()
    theirs = (table @ others[0, 0]).argsort(descending=True).tolist()
    judged = sorted((4, 9), key=order.index)
    expected = [*order[:2], *(row for row in judged if row not in order[:2])]
    standings = found.standings(0, "encoder", 2)
    assert [(each.candidate, each.rank) for each in standings] == [(row, order.index(row) + 1) for row in expected]
    assert {each.candidate: each.label for each in standings if each.label} == {4: 1.0, 9: 2.0}
    assert {each.candidate: each.ranks for each in standings if each.ranks} == {
        row: (theirs.index(row) + 1,) * 2 for row in (4, 9)
    }
    assert [each.score is None for each in standings] == [row not in order[:5] for row in expected]
    assert len(found.standings(1, None, 3)) == 3
