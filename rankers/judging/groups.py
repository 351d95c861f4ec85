"""GroupJudging: each query's own candidates are scored, batch by batch."""

from collections.abc import Mapping
from typing import Any

from rankers.judging.judging import Judging
from ranking.batch import Batch
from ranking.evaluation import Evaluation, EvaluationState


class GroupJudging(Judging):
    """Collects the scores of the ranker and of the references, which see the same batches.

    Args:
        ranker: What is judged.
        references: What stands beside it, by name.
        distributed: Whether the processes of a run share the queries.
    """

    def __init__(self, ranker: Any, references: Mapping[str, Any], *, distributed: bool = True) -> None:
        super().__init__(ranker, references)
        self._state = EvaluationState(list(references), distributed=distributed)

    def update(self, batch: Batch) -> None:
        """Score one batch.

        Raises:
            ValueError: If a candidate that exists has a score that is no number.
        """
        beside = {name: reference.evaluation_scores(batch) for name, reference in self.references.items()}
        self._state.update(batch, self.ranker(batch).float(), beside)

    def judge(self, split: str = "") -> Evaluation:
        """The scores of all queries."""
        evaluation = self._state.compute()
        self._state.reset()
        return evaluation
