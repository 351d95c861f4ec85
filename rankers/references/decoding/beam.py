"""Beam: the response that a beam search found for each query; it is not one of the query's candidates."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from ranking.evaluation import Scored
from registry import RANKERS


@RANKERS.register("beam")
class Beam(Untrained[Batch]):
    """A list of one candidate per query, with the label of the beam search's response.

    Queries without such a label, for example because they were never searched, have an empty list, so they are left
    out.
    """

    batch_type: ClassVar[type[Batch]] = Batch

    def lacks(self, data: Any) -> str | None:
        """Report a store without a beam search."""
        return None if data.known.beams else "no beam search was made"

    def evaluation_scores(self, batch: Batch, ranker_scores: Float[Tensor, "B K"]) -> Scored:
        """One candidate per query."""
        assert batch.beam is not None
        label = batch.beam.unsqueeze(1)
        return Scored(torch.zeros_like(label), label.nan_to_num(0), ~label.isnan())

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """Not defined, because a beam search does not score the query's candidates."""
        return torch.zeros_like(batch.labels)
