"""RememberedScores: scores each candidate once, for judging many draws of the same candidates."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ranking.batch import Batch
from ranking.evaluation import Scored


class RememberedScores:
    """The scores of a pointwise ranker, which are the same in every group that a candidate is drawn into.

    Args:
        ranker: A ranker whose `is_pointwise` is true.
        batches: Batches that hold every candidate that is asked for later.
        num_slots: The number of slots of the store that they are from.
    """

    def __init__(self, ranker: Any, batches: Iterable[Batch], num_slots: int) -> None:
        self._scores = torch.full((num_slots,), torch.nan)
        for batch in batches:
            self._scores[batch.slot[batch.mask]] = ranker(batch.to(ranker.device)).float().cpu()[batch.mask]

    def __call__(self, batch: Batch) -> Float[Tensor, "B K"]:
        """Look up the score of every candidate."""
        scores = self._scores.to(batch.slot.device)[batch.slot.clamp(min=0)]
        return scores.masked_fill(~batch.mask, 0)

    def evaluation_scores(self, batch: Batch, ranker_scores: Float[Tensor, "B K"]) -> Scored:
        """The scores as those of a reference.

        Args:
            batch: The batch that is judged.
            ranker_scores: The scores of the ranker that the reference is compared with; not used.
        """
        return Scored(self(batch), batch.labels, batch.mask)
