"""Mixing: a share of the frozen encoder's score in a ranker's own, so that few training queries do no harm."""

from dataclasses import dataclass, field
from typing import Annotated

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
