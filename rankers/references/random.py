"""Random: all candidates tie, so every metric equals its expectation over random orders."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("random")
class Random(Untrained[Batch]):
    """Gives all candidates the same score; metrics take the expectation over the orders of tied candidates."""

    batch_type: ClassVar[type[Batch]] = Batch

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """0 for every candidate."""
        return torch.zeros_like(batch.labels)
