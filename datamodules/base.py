"""RankingData: what a run asks of every datamodule."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from lightning import LightningDataModule

from ranking.batch import Batch
from ranking.stores.group_store import GroupStore


@dataclass(frozen=True)
class Known:
    """What is known of candidates besides their labels, where references need it.

    Args:
        answers: Which candidates give the same answer.
        log_probabilities: How probable a language model found each.
        beams: What a beam search found for the queries.
    """

    answers: bool = False
    log_probabilities: bool = False
    beams: bool = False


class RankingData(LightningDataModule, ABC):
    """Batches of a data set's three splits, and what is to be known of them; it knows no ranker.

    A subclass also writes `train_dataloader`, `val_dataloader` and `test_dataloader`.
    """

    batch_type: ClassVar[type[Batch]]
    """What its batches are."""

    known: Known = Known()
    """What is known of candidates besides their labels."""

    responses: GroupStore | None = None
    """The store, if its candidates are responses that a language model sampled."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a ranker can know of the data before it reads any, by the names of the ranker's options."""

    @property
    @abstractmethod
    def default_references(self) -> list[str]:
        """What stands beside a ranker unless the config says otherwise; rankers without weights."""

    @property
    def encoder(self) -> dict[str, Any] | None:
        """What made the features; None where there are none or nothing is known of it."""
        return None

    @property
    def shared_negatives(self) -> bool:
        """True if training scores every query against all candidates of a batch."""
        return False

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """How many steps an epoch of training has at the most."""

    @abstractmethod
    def steps(self, split: str) -> int:
        """How many batches validation or test has, in one process."""

    @abstractmethod
    def num_queries(self, split: str) -> int:
        """How many queries a split has."""

    @abstractmethod
    def query_id(self, query: int, /) -> str:
        """The query's own id, for messages and result files."""

    @abstractmethod
    def query_text(self, query: int, /) -> str:
        """The query's text, to look at."""

    @abstractmethod
    def candidate_id(self, candidate: int, /) -> str:
        """The candidate's own id, by its slot or row as rankings give it."""

    @abstractmethod
    def candidate_text(self, candidate: int, /) -> str:
        """The candidate's text, to look at."""

    def check_ranker(self, ranker: Any) -> None:
        """Refuse a ranker that cannot be trained on these batches.

        Raises:
            ConfigError: With the option to change.
        """

    def process(self) -> dict[str, int]:
        """Which of how many processes this is: `rank` and `world`."""
        trainer = self.trainer
        return {"rank": trainer.global_rank if trainer else 0, "world": trainer.world_size if trainer else 1}
