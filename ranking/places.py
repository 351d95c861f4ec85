"""Places: where candidates stand in an order, ties told apart from what is above them."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
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

    @classmethod
    def of_scores(cls, scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"]) -> "Places":
        """Where candidates stand among all of their group, in float64; nowhere where the mask is False.

        Scores that are the same in float32 are tied, -inf with the lowest finite one.

        Args:
            scores: Higher is better.
            mask: True where a candidate exists.

        Raises:
            ValueError: If the score of an existing candidate is nan.

        Example:
            >>> yes = torch.ones(1, 4, dtype=torch.bool)
            >>> above, tied = Places.of_scores(torch.tensor([[2.0, 1.0, 1.0, 0.0]]), yes)
            >>> above.tolist(), tied.tolist()
            ([[0.0, 1.0, 1.0, 3.0]], [[0.0, 1.0, 1.0, 0.0]])
        """
        broken = (mask & scores.isnan()).any(dim=1)
        if broken.any():
            rows = ", ".join(map(str, broken.nonzero().flatten().tolist()[:5]))
            raise ValueError(f"scores of existing candidates are nan, so they have no order (rows {rows} of the batch)")
        lowest = torch.finfo(torch.float32).min
        values = torch.where(mask, scores.float().clamp(min=lowest), -torch.inf).contiguous()
        ordered = values.sort(dim=1).values
        first, end = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
        above, tied = (scores.shape[1] - end).double(), (end - first - 1).double()
        return cls(above.masked_fill(~mask, torch.inf), tied.masked_fill(~mask, 0))

    def to_depth(self, depth: int) -> "Places":
        """The same where only the first `depth` ranks are looked at: what stands below is nowhere."""
        below = self.above >= depth
        return Places(self.above.masked_fill(below, torch.inf), self.tied.masked_fill(below, 0))
