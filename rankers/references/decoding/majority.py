"""Majority: the answer that most of the candidates give (self-consistency, Wang et al. 2022)."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("majority")
class Majority(Untrained[Batch]):
    """Scores a candidate by the number of candidates in its group with the same answer; 0 without an answer."""

    batch_type: ClassVar[type[Batch]] = Batch

    def lacks(self, data: Any) -> str | None:
        """Report candidates without answers."""
        return None if data.known.answers else "no answers of the candidates are known"

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """The number of votes for each candidate's answer."""
        assert batch.answer is not None
        same = (batch.answer.unsqueeze(1) == batch.answer.unsqueeze(2)) & batch.mask.unsqueeze(1)
        return same.sum(dim=2).masked_fill(batch.answer == 0, 0).float()
