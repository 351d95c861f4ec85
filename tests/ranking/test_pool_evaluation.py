"""Ranks over a pool, whole or own lists, against a plain sort of all scores in float64."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rankers.baselines.bm25 import BM25
from ranking.pool_evaluation import PoolEvaluation, PoolEvaluationState, Relevant, best, ragged
from ranking.rank_metrics import mrr, recall

NUM_CANDIDATES, DIM = 50, 8


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pool() -> Any:
    """Four queries with 2, 0, 1 and 3 relevant candidates."""
    queries = SimpleNamespace(
        relevant_offsets=torch.tensor([0, 2, 2, 3, 6]),
        relevant=torch.tensor([4, 9, 30, 1, 2, 3]),
        label=torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0, 1.0]),
    )
    return SimpleNamespace(queries=queries)


def brute_force(scores: list[float], target: int) -> float:
    higher = sum(score > scores[target] for score in scores)
    tied = sum(score == scores[target] for score in scores) - 1
    return 1 + higher + tied / 2


def test_relevant_candidates_are_those_of_each_query(pool: Any) -> None:
    relevant = Relevant.of(pool, torch.tensor([3, 1, 0]))
    assert relevant.mask.tolist() == [[True, True, True], [False] * 3, [True, True, False]]
    assert relevant.rows[relevant.mask].tolist() == [1, 2, 3, 4, 9]
    assert relevant.labels[relevant.mask].tolist() == [1, 3, 1, 1, 2]


def test_ranks_over_the_pool_are_those_of_a_sort(pool: Any) -> None:
    relevant = Relevant.of(pool, torch.tensor([0, 2, 3]))
    table, vectors = random(NUM_CANDIDATES, DIM, seed=0), random(3, 2, DIM, seed=1)
    table[9] = table[4]  # a tie
    removed = torch.tensor([[0, 5], [2, 7], [2, 1]])
    found = relevant.ranks(vectors, table, removed=torch.cat([removed[:2]]))
    for variant in range(2):
        for place, at in relevant.mask.nonzero().tolist():
            gone = {row for query, row in removed[:2].tolist() if query == place}
            scores = (table.double() @ vectors[place, variant].double()).tolist()
            kept = [score for row, score in enumerate(scores) if row not in gone]
            row = int(relevant.rows[place, at])
            target = row - sum(other < row for other in gone)
            assert float(found[variant, place, at]) == brute_force(kept, target)


def test_ranks_in_own_lists_leave_all_others_out(pool: Any) -> None:
    relevant = Relevant.of(pool, torch.tensor([0, 2]))
    table, vectors = random(NUM_CANDIDATES, DIM, seed=0), random(2, 1, DIM, seed=1)
    own = torch.tensor([[4, 9, 11, 40], [7, 30, -1, -1]])
    found = relevant.ranks(vectors, table, own=own)
    scores = [(table[own[place][own[place] >= 0]] @ vectors[place, 0]).tolist() for place in range(2)]
    assert found[0, 0, :2].tolist() == [brute_force(scores[0], 0), brute_force(scores[0], 1)]
    assert float(found[0, 1, 0]) == brute_force(scores[1], 1)


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
    relevant = Relevant.of(pool, torch.tensor([0, 1]))
    ranks = {"ours": torch.tensor([[2.0, 1.0], [0.0, 0.0]]), "bm25": torch.tensor([[8.0, 4.0], [0.0, 0.0]])}
    evaluation = PoolEvaluation(
        "ours", relevant, ranks, torch.tensor([[3.0, 2.0], [1.0, 0.0]]), torch.tensor([[9, 4], [8, -1]])
    )
    metrics = {"mrr": mrr, "recall@1": lambda *given: recall(*given, k=1)}
    assert {name: values.tolist() for name, values in evaluation.per_query(metrics).items()} == {
        "mrr": [1.0, 0.0],
        "recall@1": [0.5, 0.0],
    }
    assert evaluation.baselines(metrics)["bm25"]["mrr"].tolist() == [0.25, 0.0]
    assert dict(evaluation.rankings()) == {0: [(9, 3.0, 2.0), (4, 2.0, 1.0)], 1: [(8, 1.0, 0.0)]}
    right, wrong = evaluation.right_and_wrong()
    assert (right.tolist(), wrong.tolist()) == ([3.0, 2.0], [1.0])


def test_a_query_that_two_processes_have_seen_counts_once() -> None:
    state = PoolEvaluationState()
    state.update(torch.tensor([5, 2]), torch.tensor([[[5.0]], [[2.0]]]))
    state.update(torch.tensor([2, 9]), torch.tensor([[[2.0]], [[9.0]]]))
    queries, vectors = state.compute()
    assert queries.tolist() == [2, 5, 9] and vectors.flatten().tolist() == [2, 5, 9]
    with pytest.raises(ValueError, match=r"queries \[7\] as nan"):
        state.update(torch.tensor([7]), torch.tensor([[[float("nan")]]]))


def test_bm25_ranks_by_shared_words_and_halves_ties() -> None:
    texts = ["sort a list of numbers", "open a file", "close the socket", "list files of a folder", "sort files"]
    relevant = Relevant(torch.arange(2), torch.tensor([[0], [4]]), torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool))
    ranks = BM25(texts).ranks(["sort numbers", "unheard of"], relevant)
    # Nothing is shared with the second query, so all five tie: 1 + 4 / 2.
    assert ranks.tolist() == [[1.0], [3.0]]
    own, removed = torch.tensor([[0, 4], [4, -1]]), torch.tensor([[0, 0]])
    assert BM25(texts).ranks(["sort numbers", "unheard of"], relevant, own=own).tolist() == [[1.0], [1.0]]
    assert BM25(texts).ranks(["sort numbers", "x"], relevant, removed=removed)[0].tolist() == [5.0]
