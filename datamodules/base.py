"""RankingData: the interface between runs and datamodules."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from lightning import LightningDataModule

from ranking.batch import Batch
from ranking.stores.group_store import GroupStore


@dataclass(frozen=True)
class Known:
    """Facts about candidates besides their labels, for references that need them.

    Args:
        answers: Which candidates give the same answer.
        log_probabilities: The log-probability of each candidate under a language model.
        num_tokens: The number of tokens of each candidate.
        self_certainties: The self-certainty of the language model in each candidate.
        beams: The results of a beam search for the queries.
        performances: How well the candidates, which are models, answer the queries.
    """

    answers: bool = False
    log_probabilities: bool = False
    num_tokens: bool = False
    self_certainties: bool = False
    beams: bool = False
    performances: bool = False

    @property
    def extra(self) -> list[str]:
        """The further inputs that a ranker can read of each candidate."""
        known = {
            "log_probability": self.log_probabilities,
            "num_tokens": self.num_tokens,
            "agreement": self.answers,
            "self_certainty": self.self_certainties,
        }
        return [name for name, there in known.items() if there]


class RankingData(LightningDataModule, ABC):
    """Batches of the three splits of a data set, and facts about them, independently of the ranker.

    A subclass also implements `train_dataloader`, `val_dataloader` and `test_dataloader`.
    """

    batch_type: ClassVar[type[Batch]]
    """The type of the batches."""

    known: Known = Known()
    """Facts about candidates besides their labels."""

    responses: GroupStore | None = None
    """The store, if its candidates are responses that a language model sampled."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Facts about the data that set options of the ranker, by the names of these options."""

    @property
    @abstractmethod
    def default_references(self) -> list[str]:
        """The rankers without weights that a ranker is compared with, unless the config names others."""

    @property
    def encoder(self) -> dict[str, Any] | None:
        """The model that computed the features; None if there are no features or the model is unknown."""
        return None

    @property
    def shared_negatives(self) -> bool:
        """True if training scores every query against all candidates of a batch."""
        return False

    @property
    def changes_with_ranker(self) -> bool:
        """Whether the ranker in training decides on the batches of the next epoch, which are then made anew."""
        return False

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """The largest number of steps in an epoch of training."""

    @abstractmethod
    def steps(self, split: str) -> int:
        """How many batches validation or test has in one process."""

    @abstractmethod
    def num_queries(self, split: str) -> int:
        """How many queries a split has."""

    @abstractmethod
    def query_id(self, query: int, /) -> str:
        """The query's id, for messages and result files."""

    @abstractmethod
    def query_text(self, query: int, /) -> str:
        """The query's text, for display."""

    @abstractmethod
    def candidate_id(self, candidate: int, /) -> str:
        """The candidate's id, by its slot or row in a ranking."""

    @abstractmethod
    def candidate_text(self, candidate: int, /) -> str:
        """The candidate's text, for display."""

    def check_ranker(self, ranker: Any) -> None:
        """Refuse a ranker that cannot be trained on these batches.

        Raises:
            ConfigError: If it cannot be trained; the error names the option to change.
        """

    @property
    def accumulated(self) -> int:
        """The number of batches in a step of the optimizer."""
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    def process(self) -> dict[str, int]:
        """The number of this process (`rank`) and the number of processes (`world`)."""
        trainer = self.trainer
        return {"rank": trainer.global_rank if trainer else 0, "world": trainer.world_size if trainer else 1}
