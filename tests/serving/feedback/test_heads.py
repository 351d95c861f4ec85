"""Heads of users: the newest one scores, whoever has trained it, and only as many are in memory as may be."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rankers.base import Ranker
from ranking.batch import FeatureBatch
from registry import RANKERS
from serving.feedback.database import FeedbackDatabase
from serving.feedback.heads import Heads, can_be_personal
from serving.personal import PersonalRankers

BATCH = FeatureBatch.of_group(torch.arange(4.0), torch.eye(4))


def build(seed: int = 0, **options: Any) -> Ranker[Any]:
    torch.manual_seed(seed)
    return RANKERS.build(
        {"name": "point_ranker", "num_blocks": 0, "similarity": "dot", **options}, feature_dim=4
    ).eval()


def teach(database: FeedbackDatabase, heads: Heads, user: str, seed: int) -> torch.Tensor:
    """Give a user the ranker of another seed; returns its scores."""
    database.add(heads.name, user, {})
    lease = database.lease({heads.name: heads.base_sha256}, 1, 60)
    assert lease is not None and lease.of.user == user
    personal, ranker = PersonalRankers(build()), build(seed)
    personal.add(user, ranker)
    database.finish(lease, {}, personal.difference(user))
    return personal.score(user, BATCH)


@pytest.fixture
def database(tmp_path: Path) -> FeedbackDatabase:
    return FeedbackDatabase(tmp_path / "feedback.sqlite")


def test_every_server_of_a_database_serves_the_newest_head(database: FeedbackDatabase) -> None:
    here, there = (Heads("r", build(), FeedbackDatabase(database.url.database or "")) for _ in range(2))
    base = build()(BATCH)
    for heads in (here, there):
        assert heads.head("ana").version == 0 and torch.equal(heads.head("ana").score(BATCH), base)
    for version in (1, 2):
        expected = teach(database, here, "ana", seed=version)
        for heads in (here, there):
            found = heads.head("ana")
            assert found.version == version and torch.equal(found.score(BATCH), expected)
            assert torch.equal(heads.head("ben").score(BATCH), base)
    kept = here.head("ana")
    database.forget("ana")
    assert here.head("ana").version == there.head("ana").version == 0
    assert torch.equal(kept.score(BATCH), expected), "a request that has begun ends with the head it began with"
    assert torch.equal(teach(database, here, "ana", seed=5), there.head("ana").score(BATCH))
    assert there.head("ana").version == 1


def test_no_more_heads_are_in_memory_than_may_be_and_the_others_are_read_again(database: FeedbackDatabase) -> None:
    heads = Heads("r", build(), database, most=2)
    expected = {f"user {seed}": teach(database, heads, f"user {seed}", seed) for seed in range(1, 5)}
    for user in [*expected, *reversed(expected), "user 1"]:
        assert torch.equal(heads.head(user).score(BATCH), expected[user])
        assert len(heads._known) <= 2 and set(heads._rankers.users) == set(heads._known)
    heads.forget("user 1")
    assert "user 1" not in heads._rankers.users
    heads.forget("nobody")


def test_a_head_that_is_forgotten_while_it_is_read_does_not_return_to_memory(
    database: FeedbackDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, read = Heads("r", build(), database), database.weights
    teach(database, heads, "ana", seed=1)

    def weights(version: str) -> Any:
        found = read(version)
        database.forget("ana")
        heads.forget("ana")
        return found

    monkeypatch.setattr(database, "weights", weights)
    assert heads.head("ana").version == 0 and not heads._rankers.users


def test_heads_of_another_base_are_not_used(database: FeedbackDatabase) -> None:
    before = Heads("r", build(), database)
    teach(database, before, "ana", seed=1)
    for other in (build(seed=9), build(temperature=0.5)):
        heads = Heads("r", other, database)
        assert heads.head("ana").version == 0 and torch.equal(heads.head("ana").score(BATCH), other(BATCH))
        assert database.lease({"r": heads.base_sha256}, 1, 60) is not None, "what the user said is learnt from again"
    assert Heads("r", build(loss="mse"), database).head("ana").version == 1


def test_only_rankers_of_vectors_in_float32_have_heads(database: FeedbackDatabase) -> None:
    assert can_be_personal(build()) and can_be_personal(RANKERS.build("list_ranker", feature_dim=4))
    for ranker in (RANKERS.build("cosine"), build().half(), RANKERS.build("linear_probe", feature_dim=4)):
        assert not can_be_personal(ranker)
        with pytest.raises(ValueError, match="cannot be trained for single users: only list_ranker and point_ranker"):
            Heads("r", ranker, database)


def test_a_difference_of_another_size_is_refused() -> None:
    personal = PersonalRankers(build())
    with pytest.raises(ValueError, match=r"3 bytes, and a user of this base has [\d,]+"):
        personal.restore("ana", b"abc")
