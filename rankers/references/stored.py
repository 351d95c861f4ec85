"""Stored: the order in which the store holds the candidates."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rankers.base import Ranker
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("stored")
class Stored(Ranker[Batch]):
    """Keeps the order of the store, such as that of another ranker whose candidates were stored."""

    batch_type: ClassVar[type[Batch]] = Batch

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """Less for each place further back in the store."""
        start = batch.slot.masked_fill(~batch.mask, batch.slot.max()).amin(dim=1, keepdim=True)
        return -(batch.slot - start).float()
