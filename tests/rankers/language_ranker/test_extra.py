"""Extra inputs are normalised within their group, and a ranker without them is what it always was."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rankers.language_ranker.extra import inputs_of
from rankers.language_ranker.list_ranker import ListRanker
from rankers.language_ranker.point_ranker import PointRanker
from ranking.batch import FeatureBatch
from registry import RANKERS, ConfigError
from serving.reranker import Reranker

GROUPS, PLACES, DIM = 7, 6, 4
NAMES: Any = ["log_probability", "num_tokens", "agreement", "self_certainty"]


@pytest.fixture
def batch() -> FeatureBatch:
    draw = torch.Generator().manual_seed(0)
    mask = torch.rand(GROUPS, PLACES, generator=draw) < 0.7
    mask[3] = False
    log_probability = -1000 * torch.rand(GROUPS, PLACES, generator=draw)
    log_probability[torch.rand(GROUPS, PLACES, generator=draw) < 0.2] = torch.nan
    log_probability[1] = -123.456
    return FeatureBatch(
        labels=torch.zeros(GROUPS, PLACES),
        mask=mask,
        group=torch.arange(GROUPS),
        slot=torch.where(mask, torch.arange(GROUPS * PLACES).view(GROUPS, PLACES), -1),
        unique_queries=torch.randn(GROUPS, DIM, generator=draw),
        unique_candidates=torch.randn(11, DIM, generator=draw),
        query_index=torch.arange(GROUPS),
        candidate_index=torch.randint(0, 11, (GROUPS, PLACES), generator=draw).masked_fill(~mask, 0),
        answer=torch.randint(0, 3, (GROUPS, PLACES), generator=draw),
        log_probability=log_probability,
        num_tokens=torch.randint(-1, 400, (GROUPS, PLACES), generator=draw, dtype=torch.int32),
        self_certainty=20 * torch.rand(GROUPS, PLACES, generator=draw),
    )


def by_hand(batch: FeatureBatch, name: str, row: int, place: int) -> float:
    there = [each for each in range(PLACES) if batch.mask[row, each]]
    if place not in there:
        return 0.0
    if name == "agreement":
        assert batch.answer is not None
        answers = batch.answer[row].tolist()
        same = sum(answers[each] == answers[place] for each in there)
        return same / len(there) if answers[place] else 0.0
    column = getattr(batch, name)[row].double().tolist()
    known = [
        each for each in there if column[each] >= 0 or (name == "log_probability" and not math.isnan(column[each]))
    ]
    if place not in known:
        return 0.0
    mean = sum(column[each] for each in known) / len(known)
    deviation = math.sqrt(sum((column[each] - mean) ** 2 for each in known) / len(known))
    return (column[place] - mean) / deviation if deviation > 1e-6 else 0.0


@pytest.mark.parametrize("name", NAMES)
def test_each_input_is_that_of_a_plain_loop(batch: FeatureBatch, name: Any) -> None:
    found = inputs_of(batch, [name])[..., 0]
    for row in range(GROUPS):
        for place in range(PLACES):
            assert float(found[row, place]) == pytest.approx(by_hand(batch, name, row, place), abs=1e-4)


def test_a_point_ranker_adds_the_inputs_to_the_projected_candidate(batch: FeatureBatch) -> None:
    options: Any = {"feature_dim": DIM, "num_blocks": 0, "projection": None, "similarity": "dot", "temperature": 0.5}
    ranker = PointRanker(**options, extra=NAMES).eval()
    assert ranker.extra_inputs is not None
    weight = ranker.extra_inputs.linear.weight.detach().double()
    scores = ranker(batch).detach()
    for row, place in batch.mask.nonzero().tolist():
        inputs = torch.tensor([by_hand(batch, name, row, place) for name in NAMES]).double()
        vector: Tensor = batch.unique_candidates[batch.candidate_index[row, place]].double() + weight @ inputs
        expected = float(batch.unique_queries[row].double() @ vector) / 0.5
        assert float(scores[row, place]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("ranker", [ListRanker, PointRanker])
def test_inputs_are_weights_of_their_own_and_change_no_others(ranker: type[ListRanker | PointRanker]) -> None:
    made = []
    for extra in ([], NAMES):
        torch.manual_seed(5)
        made.append(ranker(feature_dim=DIM, extra=extra).state_dict())
    assert set(made[1]) - set(made[0]) == {"extra_inputs.linear.weight"}
    assert made[1]["extra_inputs.linear.weight"].shape == (64, 4)
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_the_column_is_an_error_that_names_it(batch: FeatureBatch, name: Any) -> None:
    ranker = ListRanker(feature_dim=DIM, extra=[name])
    batch.answer = batch.log_probability = batch.num_tokens = batch.self_certainty = None
    with pytest.raises(ValueError, match=f"extra input {name}, but the batch has no column"):
        ranker(batch)


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"extra\[0\]: no such choice: 'lenght'"):
        RANKERS.build({"name": "list_ranker", "extra": ["lenght"]}, feature_dim=DIM)
    with pytest.raises(ConfigError, match="extra names an input twice: agreement, agreement"):
        RANKERS.build({"name": "list_ranker", "extra": ["agreement", "agreement"]}, feature_dim=DIM)


def test_texts_alone_cannot_be_ranked_with_further_inputs() -> None:
    with pytest.raises(ValueError, match="also reads num_tokens of each response, which texts do not have"):
        Reranker(ListRanker(feature_dim=DIM, extra=["num_tokens"]), None)  # type: ignore[arg-type]
