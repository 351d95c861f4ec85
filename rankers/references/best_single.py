"""BestSingle: sends every query to the model with the highest mean label in training."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("best_single")
class BestSingle(Untrained[Batch]):
    """Ranks the same candidates in the same order for every query, by their mean training labels.

    Candidates are told apart by their ids. One that no training query has comes last.
    """

    batch_type: ClassVar[type[Batch]] = Batch

    def lacks(self, data: Any) -> str | None:
        """Report candidates that are not models to choose from."""
        return None if data.known.performances else "the candidates are not models to choose from"

    def learn_from(self, data: Any) -> None:
        """Find the mean label of each candidate over the training queries."""
        sums: dict[str, list[float]] = {}
        for batch in data.evaluation_batches("train", data.most_candidates("train"), 1):
            for slot, label in zip(batch.slot[batch.mask].tolist(), batch.labels[batch.mask].tolist(), strict=True):
                sums.setdefault(data.candidate_id(slot), []).append(label)
        self._data, self._means = data, {name: sum(labels) / len(labels) for name, labels in sums.items()}

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """The mean training label of each candidate."""
        lowest = min(self._means.values()) - 1
        found = [
            [self._means.get(self._data.candidate_id(slot), lowest) if slot >= 0 else lowest for slot in row]
            for row in batch.slot.tolist()
        ]
        return torch.tensor(found, device=batch.labels.device).view(batch.labels.shape)
