"""Stored: ranks the candidates in the order of the store."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("stored")
class Stored(Untrained[Batch]):
    """Keeps the order of the store, for example the order of another ranker whose results were stored."""

    batch_type: ClassVar[type[Batch]] = Batch

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """A score that decreases with the place in the store."""
        start = batch.slot.masked_fill(~batch.mask, torch.iinfo(batch.slot.dtype).max).amin(dim=1, keepdim=True)
        return -(batch.slot - start).float()
