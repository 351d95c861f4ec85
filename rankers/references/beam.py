"""Beam: what a beam search found for each query, which is none of its candidates."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Ranker
from ranking.batch import Batch
from ranking.evaluation import Scored
from registry import RANKERS


@RANKERS.register("beam")
class Beam(Ranker[Batch]):
    """A list of one for each query: right or wrong as the beam search was, a miss where it found nothing."""

    batch_type: ClassVar[type[Batch]] = Batch

    def lacks(self, data: Any) -> str | None:
        """A beam search."""
        return None if data.known.beams else "no beam search was made"

    def evaluation_scores(self, batch: Batch) -> Scored:
        """One candidate a query."""
        assert batch.beam is not None
        label = batch.beam.nan_to_num(0).unsqueeze(1)
        return Scored(torch.zeros_like(label), label, torch.ones_like(label, dtype=torch.bool))

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """Nothing is known of the other candidates."""
        return torch.zeros_like(batch.labels)
