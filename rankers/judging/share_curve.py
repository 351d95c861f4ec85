"""ShareCurve: the validation results of mixed scores at several shares, and the choice of one of them."""

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ShareCurve:
    """The validation results of each share of a scorer in mixed scores.

    Args:
        metric: The metric's name.
        shares: The shares, in ascending order.
        values: The metric of each query at each share.
        standard_errors: By how many standard errors the chosen share may be worse than the best one.
    """

    metric: str
    shares: list[float]
    values: Float[Tensor, "S Q"]
    standard_errors: float

    @property
    def place(self) -> int:
        """The index of the chosen share."""
        return choose_share(self.values, self.standard_errors)

    def plain(self) -> dict[str, Any]:
        """The curve as plain values for a json file."""
        return {
            "share": self.shares[self.place],
            "metric": self.metric,
            "shares": self.shares,
            "values": [round(value, 6) for value in self.values.mean(dim=1).tolist()],
            "queries": self.values.shape[1],
        }


def choose_share(values: Float[Tensor, "S Q"], standard_errors: float) -> int:
    """The last row that is not worse than the best one by more than some standard errors of their paired difference.

    The one standard error rule of Breiman et al. 1984. With one query the error is unknown, and the last row is chosen.

    Args:
        values: A metric of each query, at ascending shares.
        standard_errors: How many standard errors; 0 for the best row, at equal means the last one.

    Example:
        >>> import torch
        >>> choose_share(torch.tensor([[0.9, 0.8, 0.7, 0.8], [0.8, 0.9, 0.7, 0.7], [0.1, 0.2, 0.3, 0.1]]), 1.0)
        1
    """
    values = values.double()
    num_queries = values.shape[1]
    if num_queries == 1:
        return len(values) - 1
    behind = values[values.mean(dim=1).argmax()] - values
    allowed = standard_errors * behind.std(dim=1) / math.sqrt(num_queries)
    return int((behind.mean(dim=1) <= allowed + 1e-12).nonzero().max())
