"""GroupJudging: scores each query's own candidates, batch by batch."""

from collections.abc import Mapping
from typing import Any

from rankers.judging.judging import Judging
from ranking.batch import Batch
from ranking.evaluation import Evaluation, EvaluationState


class GroupJudging(Judging):
    """Collects the scores of the ranker and of the references on the same batches.

    Args:
        ranker: The ranker to judge.
        references: The rankers without weights that it is compared with, by name.
        distributed: Whether the processes of a run share the queries.
    """

    def __init__(self, ranker: Any, references: Mapping[str, Any], *, distributed: bool = True) -> None:
        super().__init__(ranker, references)
        self._state = EvaluationState(list(references), distributed=distributed)

    def update(self, batch: Batch) -> None:
        """Score one batch.

        Raises:
            ValueError: If the score of an existing candidate is NaN.
        """
        scores = self.ranker(batch).float().to(batch.labels.device)
        beside = {name: reference.evaluation_scores(batch, scores) for name, reference in self.references.items()}
        self._state.update(batch, scores, beside)

    def judge(self, split: str = "") -> Evaluation:
        """The scores of all queries."""
        evaluation = self._state.compute()
        self._state.reset()
        return evaluation
