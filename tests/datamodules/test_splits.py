"""Splits: what a source says stays, save that some of its training queries validate where it has none for that."""

import pytest
import torch

from datamodules.splits import assign_splits, draw_splits
from ranking.stores.format import SPLITS
from registry import ConfigError

NUM, TEST = 2000, 2
SHARES = (0.8, 0.1, 0.1)

TRAIN, VAL, UNSAID = SPLITS["train"], SPLITS["val"], SPLITS[None]


def split_of(given: list[int], shares: tuple[float, float, float] = SHARES) -> torch.Tensor:
    return assign_splits(torch.tensor(given, dtype=torch.uint8), lambda query: f"text {query // 2}", shares)


def test_some_training_queries_validate_where_the_source_has_none_for_that() -> None:
    found = split_of([TRAIN] * NUM + [TEST] * 100)
    counts = found.bincount(minlength=3)
    assert counts[TEST] == 100 and (found[NUM:] == TEST).all()
    assert int(counts[VAL]) == pytest.approx(NUM / 9, rel=0.2) and counts[TRAIN] + counts[VAL] == NUM
    assert torch.equal(found[0:NUM:2], found[1:NUM:2]), "equal texts part"


@pytest.mark.parametrize(("given", "shares"), [
    ([TRAIN] * 50 + [VAL] + [TEST] * 5, SHARES),
    ([TRAIN] * 50 + [TEST] * 5, (1.0, 0.0, 0.0)),
    ([TEST] * 5, SHARES),
])  # fmt: skip
def test_what_is_given_stays_otherwise(given: list[int], shares: tuple[float, float, float]) -> None:
    assert split_of(given, shares).tolist() == given


def test_what_is_not_said_follows_the_shares() -> None:
    counts = split_of([UNSAID] * 2 * NUM, (0.5, 0.25, 0.25)).bincount(minlength=3) / (2 * NUM)
    assert counts.tolist() == pytest.approx([0.5, 0.25, 0.25], abs=0.04)


def test_drawn_queries_train_and_validate_and_the_others_are_tests_or_nothing() -> None:
    given = torch.tensor([VAL] * 40 + [TRAIN] * 40 + [TEST] * 10, dtype=torch.uint8)
    usable = torch.ones(90, dtype=torch.bool)
    usable[:5] = False
    for tests, others in ((TEST, UNSAID), (TRAIN, TEST)):
        given[80:] = tests
        usable[80:] = tests == TEST
        found = draw_splits(given, usable, (0.75, 0.25, 0.0), 20, seed=3)
        assert int((found == TRAIN).sum()) == 15 and int((found == VAL).sum()) == 5
        drawn = (found == TRAIN) | (found == VAL)
        assert (found[80:] == TEST).all() and (found[:80][~drawn[:80]] == others).all() and not drawn[:5].any()
    other = draw_splits(given, usable, (0.75, 0.25, 0.0), 20, seed=4)
    assert not torch.equal(found, other)
    assert torch.equal(found, draw_splits(given, usable, (0.75, 0.25, 0.0), 20, seed=3))


@pytest.mark.parametrize("count", [1, 6])
def test_more_queries_than_there_are_or_fewer_than_two_cannot_be_drawn(count: int) -> None:
    given = torch.full((5,), TRAIN, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="of 5 queries with right candidates cannot be drawn") as error:
        draw_splits(given, torch.ones(5, dtype=torch.bool), SHARES, count, seed=0)
    assert error.value.path == "datamodule.num_labelled"
