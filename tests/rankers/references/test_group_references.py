import math
from typing import Any

import pytest
import torch

from rankers.judging.groups import GroupJudging
from ranking.batch import Batch, FeatureBatch
from ranking.evaluation import Evaluation
from ranking.metrics import mrr
from registry import RANKERS


def judged(batch: Batch, *names: str) -> Evaluation:
    """What references find, one batch being all there is."""
    judging = GroupJudging(RANKERS.build("random"), {name: RANKERS.build(name) for name in names})
    judging.update(batch)
    return judging.judge()


def make_batch(labels: list[list[float]], slot: list[list[int]], **known: Any) -> Batch:
    slots = torch.tensor(slot)
    return Batch(labels=torch.tensor(labels), mask=slots >= 0, group=torch.arange(len(slots)), slot=slots, **known)


def values(batch: Batch, *names: str) -> dict[str, list[float]]:
    return {name: found["mrr"].tolist() for name, found in judged(batch, *names).baselines({"mrr": mrr}).items()}


def test_references_of_groups_are_what_their_names_say() -> None:
    batch = make_batch([[0.0, 0.0, 1.0, 9.0]], [[12, 10, 11, -1]])
    found = values(batch, "first", "random", "stored", "oracle")
    # Drawn order 12, 10, 11, of which 11 is right; 10, 11, 12 as stored; padding never counts.
    assert found["first"] == pytest.approx([(1 / 2 + 1 / 3) / 2])
    assert found["random"] == pytest.approx([(1 + 1 / 2 + 1 / 3) / 3])
    assert found["stored"] == pytest.approx([1 / 2])
    assert found["oracle"] == [1]


def test_what_a_beam_search_found_is_a_hit_or_a_miss_and_queries_without_one_are_left_out() -> None:
    batch = make_batch([[0.0, 0.0]] * 3, [[0, 1], [2, 3], [4, 5]], beam=torch.tensor([0.0, torch.nan, 1.0]))
    assert values(batch, "beam") == {"beam": [0, pytest.approx(math.nan, nan_ok=True), 1]}
    left_out = judged(batch, "beam", "first").left_out()
    assert {name: queries.tolist() for name, queries in left_out.items()} == {"beam": [False, True, False]}


def test_stored_order_survives_slots_beyond_the_precision_of_float32() -> None:
    base = 2**40
    assert values(make_batch([[0.0, 1.0, 0.0]], [[base + 1, base, base + 2]]), "stored") == {"stored": [1]}


def test_the_majority_counts_equal_answers_among_existing_candidates_and_no_answer_has_no_votes() -> None:
    answer = torch.tensor([[5, 7, 5, 5, 0, 0]])
    batch = make_batch([[0.0] * 6], [[0, 1, 2, -1, 3, 4]], answer=answer)
    assert RANKERS.build("majority")(batch)[0, [0, 1, 2, 4, 5]].tolist() == [2, 1, 2, 0, 0]


def test_the_likeliest_response_comes_first_and_one_of_unknown_probability_last() -> None:
    batch = make_batch([[0.0] * 3], [[0, 1, 2]], log_probability=torch.tensor([[-9.0, torch.nan, -2.0]]))
    assert RANKERS.build("likeliest")(batch)[0].argsort(descending=True).tolist() == [2, 0, 1]


def test_the_mean_log_probability_is_that_of_the_tokens() -> None:
    batch = make_batch(
        [[0.0] * 5],
        [[0, 1, 2, 3, 4]],
        log_probability=torch.tensor([[-9.0, torch.nan, -2.0, -1.0, 0.0]]),
        num_tokens=torch.tensor([[9, 4, 1, -1, 3]], dtype=torch.int32),
    )
    scores = RANKERS.build("mean_log_probability")(batch)[0]
    assert scores[[0, 2, 4]].tolist() == [-1, -2, 0]
    assert max(scores[[1, 3]].tolist()) < -1e30


def test_lengths_are_numbers_of_tokens_and_unknown_ones_come_last() -> None:
    batch = make_batch([[0.0] * 4], [[0, 1, 2, 3]], num_tokens=torch.tensor([[7, -1, 0, 300]], dtype=torch.int32))
    assert RANKERS.build("shortest")(batch)[0].argsort(descending=True).tolist() == [2, 0, 3, 1]
    assert RANKERS.build("longest")(batch)[0].argsort(descending=True).tolist() == [3, 0, 2, 1]


def test_the_most_certain_response_comes_first_and_one_of_unknown_certainty_last() -> None:
    batch = make_batch([[0.0] * 3], [[0, 1, 2]], self_certainty=torch.tensor([[3.0, torch.nan, 5.0]]))
    assert RANKERS.build("self_certainty")(batch)[0].argsort(descending=True).tolist() == [2, 0, 1]


@pytest.mark.parametrize("weights", ["softmax", "sigmoid"])
def test_the_weighted_majority_sums_the_weights_of_equal_answers_in_a_loop(weights: str) -> None:
    draw = torch.Generator().manual_seed(0)
    scores, answer = torch.randn(6, 5, generator=draw), torch.randint(0, 3, (6, 5), generator=draw)
    slot = torch.arange(30).view(6, 5).masked_fill(torch.rand(6, 5, generator=draw) < 0.3, -1)
    slot[5] = -1
    batch = make_batch([[0.0] * 5] * 6, slot.tolist(), answer=answer)
    found = RANKERS.build({"name": "weighted_majority", "weights": weights}).evaluation_scores(batch, scores)
    for row in range(6):
        there = [place for place in range(5) if slot[row, place] >= 0]
        exponents = {place: math.exp(float(scores[row, place])) for place in there}
        for place in there:
            votes = [other for other in there if answer[row, other] == answer[row, place]]
            if weights == "softmax":
                expected = sum(exponents[other] for other in votes) / sum(exponents.values())
            else:
                expected = sum(exponents[other] / (1 + exponents[other]) for other in votes)
            expected *= int(answer[row, place]) != 0
            assert float(found.scores[row, place]) == pytest.approx(expected, abs=1e-6)


def test_the_weighted_majority_votes_with_the_scores_of_the_ranker_beside_it() -> None:
    # Two responses say 5, but the ranker, here the log-probability, trusts the one that says 7.
    batch = make_batch(
        [[0.0, 0.0, 1.0]],
        [[0, 1, 2]],
        answer=torch.tensor([[5, 5, 7]]),
        log_probability=torch.tensor([[-3.0, -3.0, -1.0]]),
    )
    names = ("majority", "weighted_majority")
    judging = GroupJudging(RANKERS.build("likeliest"), {name: RANKERS.build(name) for name in names})
    judging.update(batch)
    found = {name: float(values["mrr"]) for name, values in judging.judge().baselines({"mrr": mrr}).items()}
    assert found == {"majority": pytest.approx(1 / 3), "weighted_majority": 1}


def test_the_cosine_is_that_of_the_stored_vectors() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(2, 8, generator=draw), torch.randn(5, 8, generator=draw)
    index = torch.tensor([[0, 1, 2], [4, 3, 0]])
    batch = FeatureBatch(
        labels=torch.zeros(2, 3),
        mask=torch.ones(2, 3, dtype=torch.bool),
        group=torch.arange(2),
        slot=torch.arange(6).view(2, 3),
        unique_queries=queries.half(),
        unique_candidates=candidates.half(),
        query_index=torch.tensor([1, 0]),
        candidate_index=index,
    )
    for row, query in enumerate(queries[[1, 0]].half().double()):
        for place, candidate in enumerate(candidates[index[row]].half().double()):
            expected = query @ candidate / query.norm() / candidate.norm()
            assert float(RANKERS.build("cosine")(batch)[row, place]) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("name", ["first", "random", "stored", "oracle", "majority", "weighted_majority", "beam"])
def test_a_reference_accepts_a_batch_without_groups_as_a_process_has_that_has_no_query_left(name: str) -> None:
    none = torch.empty(0, 3, dtype=torch.int64)
    batch = Batch(none.float(), none.bool(), none[:, 0], none, answer=none, beam=torch.empty(0))
    assert len(RANKERS.build(name).evaluation_scores(batch, none.float()).scores) == 0


def test_no_reference_has_anything_to_train() -> None:
    names = [name for name in RANKERS.names() if ".references." in RANKERS.get(name).__module__]
    assert len(names) >= 11
    assert not [name for name in names if RANKERS.build(name).is_trained]
