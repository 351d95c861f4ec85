"""Judging: what collects the batches of a validation or test, and makes an evaluation of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule

from ranking.evaluation import Judged

RUN_DEPTH = 1000
"""How far down a pool metrics look and a run file goes, as is the custom at TREC, unless a metric's k is larger."""


class Judging(ABC):
    """One way to judge a ranker, with the references beside it.

    Args:
        ranker: What is judged.
        references: What stands beside it, by name: rankers without weights.
    """

    tells_progress: bool = False
    """Whether it shows itself how far it is, in smaller steps than batches."""

    def __init__(self, ranker: Any, references: Mapping[str, Any]) -> None:
        self.ranker, self.references = ranker, dict(references)

    def begin(self, split: str) -> None:
        """A validation or test begins."""
        trainer = self.ranker._trainer
        for reference in self.references.values():
            assert isinstance(reference, LightningModule)
            reference.to(self.ranker.device)
            if trainer is not None:
                reference.trainer = trainer

    @abstractmethod
    def update(self, batch: Any) -> None:
        """Take one batch."""

    @abstractmethod
    def judge(self, split: str) -> Judged:
        """The evaluation of what was collected, over all processes; collecting starts anew after it."""

    def end_progress(self) -> None:  # noqa: B027
        """Remove its own progress display, as after Ctrl-C in the middle."""
