"""Places: where candidates stand in the order of a pool, ties told apart from what is above them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Places(NamedTuple):
    """How many other candidates are in front of each candidate, and how many are level with it.

    A candidate with n others above it and t others tied with it has each of the ranks n + 1 to n + t + 1 with the same
    probability.

    Args:
        above: How many others score higher; infinite for a candidate that is not in the order at all.
        tied: How many others score the same.
    """

    above: Float[Tensor, "*shape"]
    tied: Float[Tensor, "*shape"]

    @classmethod
    def nowhere(cls, *shape: int) -> "Places":
        """Candidates that are not in the order."""
        return cls(torch.full(shape, torch.inf, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))

    def to_depth(self, depth: int) -> "Places":
        """The same where only the first `depth` ranks are looked at: what stands below is nowhere."""
        below = self.above >= depth
        return Places(self.above.masked_fill(below, torch.inf), self.tied.masked_fill(below, 0))
