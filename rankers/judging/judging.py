"""Judging: collects the batches of a validation or test and computes an evaluation from them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule

from ranking.evaluation import Judged

RUN_DEPTH = 1000
"""How many of the best candidates metrics and run files use over a pool, as at TREC, unless a metric has a larger k."""


class Judging(ABC):
    """One way to judge a ranker and the references it is compared with.

    Args:
        ranker: The ranker to judge.
        references: The rankers without weights that it is compared with, by name.
    """

    tells_progress: bool = False
    """Whether it shows its own progress, in smaller steps than batches."""

    def __init__(self, ranker: Any, references: Mapping[str, Any]) -> None:
        self.ranker, self.references = ranker, dict(references)

    def begin(self, split: str) -> None:
        """Start a validation or test."""
        trainer = self.ranker._trainer
        for reference in self.references.values():
            assert isinstance(reference, LightningModule)
            reference.to(self.ranker.device)
            if trainer is not None:
                reference.trainer = trainer

    @abstractmethod
    def update(self, batch: Any) -> None:
        """Add one batch."""

    @abstractmethod
    def judge(self, split: str) -> Judged:
        """Evaluate the collected batches of all processes, then reset the collection."""

    def end_progress(self) -> None:  # noqa: B027
        """Remove the progress display of this judging, for example after Ctrl-C."""
