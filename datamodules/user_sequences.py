"""UserSequences: the items of each user in the order of time, from which recommenders learn."""

from functools import cached_property
from typing import Annotated, Any, Literal

from annotated_types import Interval
from jaxtyping import Int
from torch import Tensor

from datamodules.epoch_loader import EpochLoader
from datamodules.pool_data import PoolRankingData
from datamodules.pools.sequence_batches import LaneBatches, SequenceBatches
from datamodules.pools.sequences import pieces_of, sequences_of_users
from datamodules.pools.token_lists import TokenLists
from ranking.pools.pool_data import Sequences
from ranking.vectors.partitions import Partitions
from registry import DATAMODULES, ConfigError
from registry.ranges import Count, FilePath, NonNegative, Seed


@DATAMODULES.register("user_sequences")
class UserSequences(PoolRankingData):
    """Users' sequences of items for training; queries with histories, which rank the whole pool, for evaluation.

    A user's sequence is joined from the histories and right items of the user's training queries, so it makes no
    difference how many of them overlap. It never has an item that validation or test predict. Each epoch has every
    sequence once; the ranker chooses negatives itself.

    Args:
        path: The path of the pool.
        candidates: What each query of validation and test ranks: the whole `pool`, or its `own` list of candidates.
        batch_size: Sequences per step over all processes, so results do not depend on the number of processes.
        exclude_history: Remove the items in a query's history from what it ranks, in evaluation.
        split_shares: Shares of train, val and test (sum 1), for queries that the pool does not assign to a split.
        eval_batch_size: Queries per step and process in validation and test.
        seed: The seed of the order of sequences; null for the run's seed.
        num_workers: Number of processes that prepare batches in advance.
        verify: Check the pool's hashes before using it; this reads the whole pool.

    Raises:
        ConfigError: If no query has a history, or a split has no query with a right candidate.
        StoreError: If the pool cannot be opened.
    """

    partitions: Partitions | None = None

    def __init__(
        self,
        path: FilePath,
        candidates: Literal["pool", "own"] = "pool",
        batch_size: Count = 128,
        exclude_history: bool = False,
        split_shares: tuple[NonNegative, NonNegative, NonNegative] = (0.8, 0.1, 0.1),
        eval_batch_size: Count = 256,
        seed: Seed | None = None,
        num_workers: Annotated[int, Interval(ge=0, le=1000)] = 0,
        verify: bool = True,
    ) -> None:
        super().__init__(
            path,
            exclude_history=exclude_history,
            own_lists=candidates == "own",
            split_shares=split_shares,
            eval_batch_size=eval_batch_size,
            verify=verify,
        )
        if not len(self.pool.queries.history):
            problem = "the queries of this pool have no histories, so there are no sequences."
            raise ConfigError(str(self.pool.path), problem, cure="a pool of a recommendation data set")
        if self._own:
            self.own_sizes()
        self._batch_size, self.seed, self._num_workers = batch_size, seed or 0, num_workers
        self._wanted = Sequences()

    @property
    def facts(self) -> dict[str, Any]:
        """The size of the vectors and of the pool, and the number of users to learn from."""
        return {**super().facts, "num_users": len(self.users)}

    @property
    def users(self) -> Int[Tensor, " U"]:
        """The numbers of the users to learn from, ascending."""
        return self.pool.queries.user[self.sequences.index].unique()

    @property
    def default_references(self) -> list[str]:
        """The reference `popularity`."""
        return ["popularity"]

    @property
    def steps_per_epoch(self) -> int:
        """The largest number of steps in an epoch."""
        return self._source(rank=0, world=1).num_steps()

    def check_ranker(self, ranker: Any) -> None:
        """Refuse a ranker that does not learn from sequences.

        Raises:
            ConfigError: If it has weights and does not learn from sequences.
        """
        super().check_ranker(ranker)
        sequences = ranker.reading().sequences
        if sequences is None and ranker.is_trained:
            problem = f"{ranker.name} learns from queries with negatives, not from users' sequences."
            raise ConfigError("datamodule.name", problem, given="user_sequences", cure="partitioned_candidates")
        self._wanted = sequences or Sequences()

    def read_for(self, ranker: Any, *splits: str) -> None:
        """Read the inputs that a ranker and its references need of the queries of these splits."""
        self._wanted = ranker.reading().sequences or Sequences()
        super().read_for(ranker, *splits)

    def train_dataloader(self) -> EpochLoader:
        """Batches of sequences, shuffled in each epoch."""
        return EpochLoader(self._source(**self.process()), num_workers=self._num_workers)

    @cached_property
    def sequences(self) -> TokenLists:
        """The sequence of each user, named by the user's last training query."""
        return sequences_of_users(self.pool, self._splits["train"])

    def _source(self, *, rank: int, world: int) -> SequenceBatches | LaneBatches:
        shares = {"batch_size": self._batch_size, "seed": self.seed, "rank": rank, "world": world}
        if self._wanted.in_lanes:
            return LaneBatches(self.pool, self.sequences, **shares)
        return SequenceBatches(self.pool, pieces_of(self.sequences, self._wanted.longest), **shares)
