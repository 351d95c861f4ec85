"""Splits: assigns queries to training, validation and test."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from ranking.stores.format import SPLITS
from registry import ConfigError

SPLIT_CODES = {name: code for name, code in SPLITS.items() if name is not None}
_TOLERANCE = 1e-6


def check_shares(shares: Sequence[float]) -> None:
    """Refuse shares that are not those of a whole.

    Raises:
        ConfigError: If a share is negative, or their sum is not 1.
    """
    if min(shares) < 0 or abs(sum(shares) - 1) > _TOLERANCE:
        problem = f"expected three shares of 0 or more whose sum is 1, got {list(shares)} with the sum {sum(shares):g}."
        cure = "such as [0.8, 0.1, 0.1] for train, val and test"
        raise ConfigError("datamodule.split_shares", problem, cure=cure)


def assign_splits(
    given: UInt8[Tensor, " Q"], text: Callable[[int], str], shares: tuple[float, float, float]
) -> UInt8[Tensor, " Q"]:
    """The split of every query: the given split, or one chosen by a hash of the text, the same for equal texts.

    If training queries are given but no validation queries, a share val / (train + val) of the training queries is used
    for validation.

    Args:
        given: The split of each query, as a code of `SPLITS`.
        text: The text of each query.
        shares: Shares of train, val and test; their sum is 1.

    Raises:
        ConfigError: If a share is negative, or their sum is not 1.
    """
    check_shares(shares)
    split = given.clone()
    bounds = [bound / sum(shares) for bound in accumulate(shares)]
    for query in (split == SPLITS[None]).nonzero().flatten().tolist():
        split[query] = bisect_right(bounds, _place(text(query)), hi=len(bounds) - 1)
    if bool((given == SPLITS["train"]).any()) and not bool((split == SPLITS["val"]).any()):
        train, val, _ = shares
        share = val / ((train + val) or 1)
        for query in (given == SPLITS["train"]).nonzero().flatten().tolist():
            if _place(text(query)) < share:
                split[query] = SPLITS["val"]
    return split


def draw_splits(
    given: UInt8[Tensor, " Q"],
    usable: Bool[Tensor, " Q"],
    shares: tuple[float, float, float],
    num_labelled: int,
    seed: int,
) -> UInt8[Tensor, " Q"]:
    """The split of every query where only some are drawn at random for training and validation.

    A share val / (train + val) of them, at least one, is for validation. Test queries stay so, and queries that are not
    drawn are in no split; but without test queries, those that are not drawn become the test.

    Args:
        given: The split of each query, as a code of `SPLITS`.
        usable: Whether a query may be drawn: it has a right candidate.
        shares: Shares of train, val and test.
        num_labelled: How many queries to draw.
        seed: The seed of the draw.

    Raises:
        ConfigError: If too few queries are usable, or fewer than two are asked for.
    """
    open_to_draw = (usable & (given != SPLITS["test"])).nonzero().flatten()
    if not 2 <= num_labelled <= len(open_to_draw):
        problem = f"{num_labelled} of {len(open_to_draw)} queries with right candidates cannot be drawn."
        raise ConfigError("datamodule.num_labelled", problem, cure=f"2 to {len(open_to_draw)}, or null for all")
    generator = torch.Generator().manual_seed(seed)
    drawn = open_to_draw[torch.randperm(len(open_to_draw), generator=generator)[:num_labelled]]
    train, val, _ = shares
    num_val = min(max(1, round(num_labelled * val / ((train + val) or 1))), num_labelled - 1)
    is_test = given == SPLITS["test"]
    is_test |= ~is_test.any()
    split = torch.where(is_test, SPLITS["test"], SPLITS[None])
    split[drawn[num_val:]], split[drawn[:num_val]] = SPLITS["train"], SPLITS["val"]
    return split.to(given.dtype)


def _place(text: str) -> float:
    """A number in [0, 1) that is the same for equal texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
