"""PoolData: what a ranker over a pool asks of its data, and Reading: what the data asks of the ranker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.partitions import Partitions

Tokenize = Callable[[Sequence[str]], list[list[int]]]
"""What a ranker makes of texts: the ids of their tokens."""


@dataclass(frozen=True)
class Sequences:
    """How a ranker learns from the sequence of all items of each user.

    Args:
        longest: The most items to predict in one piece of a sequence; longer sequences are cut into several pieces.
            None to keep them whole.
        in_lanes: Whether a step has one item of each of many sequences, and the next step the items after these.
    """

    longest: int | None = None
    in_lanes: bool = False


@dataclass(frozen=True)
class Reading:
    """What a ranker over a pool reads of a query and of the candidates; by default nothing but their stored vectors.

    Args:
        queries: Makes tokens of queries; None for a ranker that does not read them as text.
        candidates: Makes tokens of candidates; None for a ranker that takes their stored vectors, or only their rows.
        num_cut: How many texts had to be cut so far.
        histories: Whether it reads the rows of each query's history.
        longest_history: The most items that it reads of a history, the latest ones; None for all.
        sequences: How it learns from users' sequences; None if it learns from queries with right candidates.
    """

    queries: Tokenize | None = None
    candidates: Tokenize | None = None
    num_cut: Callable[[], int] = lambda: 0
    histories: bool = False
    longest_history: int | None = None
    sequences: Sequences | None = None


@runtime_checkable
class PoolData(Protocol):
    """A pool with its queries and, where queries are read in parts of the pool, these parts."""

    @property
    def pool(self) -> CandidatePool:
        """The candidates."""
        ...

    @property
    def partitions(self) -> Partitions | None:
        """The parts of the pool; None where queries have candidates of their own."""
        ...

    def queries(self, split: str) -> Int[Tensor, " Q"]:
        """The numbers of a split's queries in the pool."""
        ...

    def restrictions(self, queries: Int[Tensor, " Q"]) -> tuple[Int[Tensor, "Q L"] | None, Int[Tensor, "R 2"] | None]:
        """What limits the candidates of queries.

        Returns:
            Rows of each query's own list, -1 where there is none, or None where queries rank the whole pool; and
            pairs (place in `queries`, row) that are no candidates, or None.
        """
        ...
