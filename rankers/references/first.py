"""First: ranks the first candidate drawn before all others, as if only one response had been sampled."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("first")
class First(Untrained[Batch]):
    """Ranks the first candidate drawn before all others; the others tie."""

    batch_type: ClassVar[type[Batch]] = Batch

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """1 for the first candidate, 0 for the others."""
        scores = torch.zeros_like(batch.labels)
        scores[:, 0] = 1
        return scores
