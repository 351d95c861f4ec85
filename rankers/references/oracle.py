"""Oracle: ranks by the labels, the best possible ranking."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("oracle")
class Oracle(Untrained[Batch]):
    """Scores each candidate by its label: an upper bound, not a method."""

    batch_type: ClassVar[type[Batch]] = Batch

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """Each candidate's label."""
        return batch.labels
