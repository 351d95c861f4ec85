"""Splits: what a source says stays, save that some of its training queries validate where it has none for that."""

import pytest
import torch

from datamodules.splits import assign_splits
from ranking.stores.format import SPLITS

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
