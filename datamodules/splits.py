"""Splits: assigns queries to training, validation and test."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from jaxtyping import UInt8
from torch import Tensor

from ranking.stores.format import SPLITS
from registry import ConfigError

SPLIT_CODES = {name: code for name, code in SPLITS.items() if name is not None}
_TOLERANCE = 1e-6


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
    if min(shares) < 0 or abs(sum(shares) - 1) > _TOLERANCE:
        problem = f"expected three shares of 0 or more whose sum is 1, got {list(shares)} with the sum {sum(shares):g}."
        cure = "such as [0.8, 0.1, 0.1] for train, val and test"
        raise ConfigError("datamodule.split_shares", problem, cure=cure)
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


def _place(text: str) -> float:
    """A number in [0, 1) that is the same for equal texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
