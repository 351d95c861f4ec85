"""Splits: which queries train, validate and test."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from jaxtyping import UInt8
from torch import Tensor

from registry import ConfigError

SPLITS = ("train", "val", "test")
UNSAID = 255


def assign_splits(
    given: UInt8[Tensor, " Q"], text: Callable[[int], str], shares: tuple[float, float, float]
) -> UInt8[Tensor, " Q"]:
    """The split of every query: the given one, else by a hash of its text, so that equal texts never part.

    Args:
        given: 0, 1 or 2 as in `SPLITS`; 255 where nothing is given.
        text: Of each query.
        shares: How large the splits shall be.

    Raises:
        ConfigError: If the shares make no sense.
    """
    if min(shares) < 0 or not sum(shares) > 0:
        raise ConfigError("datamodule.split_shares", f"expected three shares of 0 or more, got {shares}.")
    split = given.clone()
    bounds = [bound / sum(shares) for bound in accumulate(shares)]
    for query in (split == UNSAID).nonzero().flatten().tolist():
        digest = hashlib.sha256(text(query).encode()).digest()
        split[query] = bisect_right(bounds, int.from_bytes(digest[:8], "big") / 2**64, hi=len(bounds) - 1)
    return split
