"""WeightedMajority: the answer with the most votes, each vote weighted by the scores of the run's own ranker."""

from typing import Any, ClassVar, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Reporting, Untrained
from ranking.batch import Batch
from ranking.evaluation import Scored
from registry import RANKERS


@RANKERS.register("weighted_majority")
class WeightedMajority(Untrained[Batch]):
    """Scores a candidate by the total weight of its answer; 0 without an answer (Li et al. 2023, arXiv 2206.02336).

    sum of w_j over the candidates j of the group that give the same answer, where s are the ranker's scores and w_j is
    softmax(s)_j over the group, or sigmoid(s_j). With equal weights it is `majority`.

    Args:
        weights: `softmax` for scores that were trained to compare candidates, such as those of `list_ranker`; `sigmoid`
            for scores that were trained with `bce`, whose sigmoid is a probability.
    """

    batch_type: ClassVar[type[Batch]] = Batch

    def __init__(self, weights: Literal["softmax", "sigmoid"] = "softmax", **reporting: Unpack[Reporting]) -> None:
        super().__init__(**reporting)
        self._weights = weights

    def lacks(self, data: Any) -> str | None:
        """Report candidates without answers."""
        return None if data.known.answers else "no answers of the candidates are known"

    def evaluation_scores(self, batch: Batch, ranker_scores: Float[Tensor, "B K"]) -> Scored:
        """The weight of each candidate's answer, with votes weighted by these scores."""
        assert batch.answer is not None
        scores = ranker_scores.masked_fill(~batch.mask, -torch.inf)
        weights = scores.sigmoid() if self._weights == "sigmoid" else _softmax(scores)
        same = batch.answer.unsqueeze(1) == batch.answer.unsqueeze(2)
        total = (same * weights.unsqueeze(1)).sum(dim=2).masked_fill(batch.answer == 0, 0)
        return Scored(total, batch.labels, batch.mask)


def _softmax(scores: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The softmax of each group; 0 for all candidates of a group without candidates."""
    return scores.softmax(dim=1).nan_to_num(nan=0)
