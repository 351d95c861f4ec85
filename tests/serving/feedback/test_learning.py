"""A user's head is trained on the user's feedback, and used only if the held-out part of it says that it is better."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rankers.base import Ranker
from rankers.checkpoint import load_ranker, save_pretrained
from ranking.batch import FeatureBatch
from registry import RANKERS
from serving.feedback.learning import Labelled, batch_of, is_held_out, judge, learn
from serving.feedback.said import Said
from serving.personal import PersonalRankers

DIM = 8


def build(name: str = "point_ranker") -> Ranker[Any]:
    torch.manual_seed(0)
    return RANKERS.build(
        {"name": name, "projection": {"name": "linear", "dim": 16}, "similarity": "dot"}, feature_dim=DIM
    ).eval()


def picks(count: int, taste: np.ndarray, seed: int = 0, num_candidates: int = 5) -> list[Labelled]:
    """What somebody picks who likes candidates that point in a direction."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(1, count + 1):
        candidates = draw.normal(size=(num_candidates, DIM)).astype(np.float32)
        candidates[:, 0] *= 3
        labels = np.zeros(num_candidates)
        labels[(candidates @ taste).argmax()] = 1
        found.append(Labelled(number, draw.normal(size=DIM).astype(np.float32), candidates, labels.tolist()))
    return found


TASTE = np.eye(DIM, dtype=np.float32)[0]


@pytest.fixture(params=["point_ranker", "list_ranker"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(save_pretrained(build(request.param), tmp_path / "base"))


def test_a_head_learns_a_taste_and_is_better_on_picks_it_has_not_seen(folder: str) -> None:
    learnt = learn(folder, picks(40, TASTE), None)
    assert learnt.report["outcome"] == "a new head" and learnt.weights is not None and not learnt.to_base
    assert learnt.report["held_out"] == 8 and learnt.report["new"] > learnt.report["base"] == learnt.report["present"]
    base = load_ranker(folder)
    heads, others = PersonalRankers(base), batch_of(picks(200, TASTE, seed=1))
    heads.restore("ana", learnt.weights)
    assert judge(heads.ranker("ana"), others).share > judge(base, others).share + 0.1


def test_training_twice_gives_the_same_head(folder: str) -> None:
    given = picks(10, TASTE)
    assert learn(folder, given, None).weights == learn(folder, given, None).weights


def test_a_new_head_that_is_worse_on_what_was_held_out_is_not_used(folder: str) -> None:
    present = learn(folder, picks(40, TASTE), None).weights
    # What is trained on says the opposite of what is held out.
    mixed = [
        each if is_held_out(each.number) else Labelled(*other)
        for each, other in zip(picks(40, TASTE), picks(40, -TASTE), strict=True)
    ]
    learnt = learn(folder, mixed, present)
    assert learnt.weights is None and not learnt.to_base
    assert learnt.report["outcome"] == "kept the present head"
    assert learnt.report["present"] >= max(learnt.report["new"], learnt.report["base"])


def test_a_present_head_that_has_become_worse_than_the_base_is_given_up(folder: str) -> None:
    present = learn(folder, picks(40, -TASTE), None).weights
    opposite = [
        each if is_held_out(each.number) else Labelled(*other)
        for each, other in zip(picks(40, TASTE), picks(40, -TASTE), strict=True)
    ]
    learnt = learn(folder, opposite, present)
    assert learnt.weights is None and learnt.to_base and learnt.report["outcome"] == "back to the base"


@pytest.mark.parametrize("count", [1, 4])
def test_without_held_out_feedback_nothing_is_trained(folder: str, count: int) -> None:
    learnt = learn(folder, picks(count, TASTE), None)
    assert (learnt.weights, learnt.to_base, learnt.report["outcome"]) == (None, False, "too little feedback")


def test_judging_is_that_of_a_loop_over_pairs() -> None:
    draw = np.random.default_rng(3)
    given = [
        Labelled(
            place + 1, draw.normal(size=DIM).astype(np.float32), draw.normal(size=(k, DIM)).astype(np.float32), labels
        )
        for place, (k, labels) in enumerate([(2, [0.0, 1.0]), (4, [3.0, -1.0, 3.0, 0.5]), (3, [1.0, 0.0, 0.0])])
    ]
    batch = batch_of(given)
    scores = torch.tensor([[1.0, 1.0, 9.0, 9.0], [2.0, 1.0, 0.0, 1.5], [0.0, 0.0, -1.0, 9.0]])
    shares, losses = [], []
    for row, each in zip(scores.double().tolist(), given, strict=True):
        pairs = [
            row[i] - row[j] for i, high in enumerate(each.labels) for j, low in enumerate(each.labels) if high > low
        ]
        shares.append(sum(1.0 if apart > 0 else 0.5 if apart == 0 else 0.0 for apart in pairs) / len(pairs))
        losses.append(sum(math.log1p(math.exp(-apart)) for apart in pairs) / len(pairs))
    found = judge(lambda given: scores, batch)
    assert found.share == pytest.approx(sum(shares) / 3)
    assert found.minus_loss == pytest.approx(-sum(losses) / 3)


def test_a_batch_holds_each_group_as_it_is_alone() -> None:
    given = [*picks(2, TASTE), *picks(3, TASTE, seed=2, num_candidates=3)]
    base = build("list_ranker")
    with torch.inference_mode():
        together = base(batch_of(given))
        for row, each in zip(together, given, strict=True):
            alone = base(FeatureBatch.of_group(torch.from_numpy(each.query), torch.from_numpy(each.candidates)))[0]
            torch.testing.assert_close(row[: len(alone)], alone)


def test_scores_count_by_their_order_however_far_apart_they_are() -> None:
    (batch,) = [
        batch_of(
            [Labelled(1, np.zeros(2, np.float32), np.zeros((4, 2), np.float32), [1e308, -1e308, 1.0, 1.0 + 1e-12])]
        )
    ]
    assert batch.labels.tolist() == [[3, 0, 1, 2]]


@pytest.mark.parametrize(("candidates", "labels"), [(["a"], [1.0]), (["a", "b"], [1.0, 1.0]), ([], [])])
def test_feedback_from_which_nothing_can_be_learnt_is_refused(candidates: list[str], labels: list[float]) -> None:
    with pytest.raises(ValueError, match=r"only one candidate|no candidate was preferred"):
        Said("pick", "query", candidates, labels)


def test_feedback_comes_back_from_plain_values() -> None:
    said = Said("pair", [{"role": "user", "content": "a"}], ["b", "c"], [1.0, 0.0])
    assert Said.of(said.content()) == said
