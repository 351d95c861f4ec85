"""Mixing: a share of the frozen encoder's score in a ranker's own, so that few training queries do no harm."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor

from registry.ranges import Fraction, NonNegative

Shares = Annotated[list[Fraction], MinLen(1)]


@dataclass(frozen=True)
class Mixing:
    """The share w of the frozen encoder in each score: (1 - w) * <h_q, h_c> + w * <e_q, h_c>.

    e_q is the encoder's vector of the query, scaled to the length of h_q. Both scores are inner products with the same
    candidates, so one mixed vector still ranks the pool in one scan. Validation chooses w after training, by the one
    standard error rule (Breiman et al. 1984): the largest share whose metric is not worse than the best one by more
    than the standard error of their paired difference. So the encoder stays wherever validation has too few queries to
    tell that training has helped.

    Args:
        shares: The shares to try besides 0.
        standard_errors: By how many standard errors a share may be worse than the best one.
        share: The share to use; null to choose it on validation.
    """

    shares: Shares = field(default_factory=lambda: [0.25, 0.5, 0.75, 1.0])
    standard_errors: NonNegative = 1.0
    share: Fraction | None = None

    @property
    def tried(self) -> list[float]:
        """The shares to try, in ascending order, with 0."""
        return sorted({0.0, *self.shares})


@dataclass(frozen=True)
class MixingCurve:
    """The validation results of each share.

    Args:
        metric: The metric's name.
        shares: The shares, in ascending order.
        values: The metric of each query at each share.
        standard_errors: As in `Mixing`.
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


def mix(vectors: Float[Tensor, "Q V E"], start: Float[Tensor, "Q E"], share: float) -> Float[Tensor, "Q V E"]:
    """The vectors whose inner products are the mixed scores.

    Args:
        vectors: The ranker's vectors of each query.
        start: The encoder's vector of each query.
        share: The encoder's share, in [0, 1].

    Example:
        >>> mix(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[3.0, 0.0]]), 0.25).tolist()
        [[[0.5, 1.5]]]
    """
    lengths = vectors.norm(dim=-1, keepdim=True)
    return (1 - share) * vectors + share * lengths * torch.nn.functional.normalize(start, dim=-1).unsqueeze(1)


def choose_share(values: Float[Tensor, "S Q"], standard_errors: float) -> int:
    """The last row that is not worse than the best one by more than some standard errors of their paired difference.

    With one query the error is unknown, and the last row is chosen.

    Args:
        values: A metric of each query, at ascending shares.
        standard_errors: How many standard errors; 0 for the best row, at equal means the last one.

    Example:
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
