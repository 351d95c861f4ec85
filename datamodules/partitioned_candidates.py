"""PartitionedCandidates: queries with right candidates in one pool, trained on random parts of it."""

import dataclasses
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Interval, Le
from jaxtyping import Int
from torch import Tensor

from datamodules.epoch_loader import EpochLoader
from datamodules.pool_data import PoolRankingData
from datamodules.pools.mining import MinedLists, Scoring
from datamodules.pools.negative_samples import FromMined, FromOwn, FromParts, no_sample
from datamodules.pools.negatives import CandidateTable, Negatives, OneTable, Sampled, WholeParts
from datamodules.pools.pool_batches import EvaluationPoolBatches, TrainingPoolBatches
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_evaluation import PoolEvaluationState
from ranking.stores.files import StoreError
from ranking.vectors.partitions import Partitions
from registry import DATAMODULES, ConfigError
from registry.ranges import Count, Few, FilePath, NonNegative, Rank, Rows, Seed, Text


@DATAMODULES.register("partitioned_candidates")
class PartitionedCandidates(PoolRankingData):
    """Queries over a shared pool of candidates, as used to train LRanker (section 3.2, Eqs. 11-12).

    The pool is split at random into parts, several times. Each step draws one of these splits, and each query of the
    batch draws one part of it. The part is the context in which the query is read, and the source of its negatives. In
    each epoch, a query draws one of its right candidates; the others are never its negatives. Training leaves out
    queries without a right candidate; validation and test count them as misses.

    Queries that the pool does not assign to a split are assigned by a hash of their text, so equal queries are always
    in the same split. A batch contains queries of similar length.

    Args:
        path: The path of the candidate pool.
        batch_size: Queries per step over all processes, so results do not depend on the number of processes.
        candidates: What each query ranks: the whole `pool`, or its `own` list of candidates.
        num_partitions: Number of parts in a split; with own lists, number of parts of each list.
        num_splits: Number of random splits of the pool.
        negatives: The negatives of a query: `partition` for some candidates of its drawn part, `all` for all of them,
            `pool` for the whole pool, in one matrix product, `batch` for the positives of the other queries in the
            batch, or `mined` for some of the candidates that are ranked highest.
        num_negatives: Number of negatives drawn for `partition` and `mined`; all if there are fewer.
        in_batch: Also use the other queries' positives as negatives, over all processes.
        known_only: Use only candidates that are right for some training query as negatives. So training does not lower
            the scores of candidates that are right only for queries of other splits.
        mined_by: What ranks candidates for `mined`: the frozen `encoder`, once, or the `ranker` in training, anew
            before every epoch but the first, which takes the encoder's (ANCE, Xiong et al. 2021).
        mine_depth: Number of candidates that are retrieved per query for `mined`.
        mine_margin: Leave out mined candidates whose score is above this share of the positive's score, since they may
            be right; null to keep all.
        exclude_history: Remove the candidates in a query's history from what it ranks, in training and evaluation.
        split_shares: Shares of train, val and test (sum 1), for queries that the pool does not assign to a split.
        num_labelled: Number of queries to draw at random for training and validation together, to try how many are
            needed; null for all. If no query is for the test (its share is 0), the others are.
        mixed_with: Other pools of the same encoder whose candidates are ranked with those of this pool: their folders,
            or in a run also configs whose `features:` build them, with the encoder of the run.
        eval_batch_size: Queries per step and process in validation and test.
        encoder: The model that the pool's vectors must come from; null for any.
        seed: The seed of the splits and of all draws; null for the run's seed.
        num_workers: Number of processes that prepare batches in advance.
        verify: Check the pool's hashes before using it; this reads the whole pool.

    Raises:
        ConfigError: If an option does not fit this pool, or a split has no query with a right candidate.
        StoreError: If the pool cannot be opened, or its vectors come from another encoder.
    """

    def __init__(
        self,
        path: FilePath,
        batch_size: Count = 20,
        candidates: Literal["pool", "own"] = "pool",
        num_partitions: Count = 10,
        num_splits: Few = 10,
        negatives: Literal["partition", "all", "pool", "batch", "mined"] = "partition",
        num_negatives: Count = 20,
        in_batch: bool = False,
        known_only: bool = False,
        mined_by: Literal["encoder", "ranker"] = "encoder",
        mine_depth: Rank = 100,
        mine_margin: Annotated[float, Gt(0), Le(10)] | None = 0.95,
        exclude_history: bool = False,
        split_shares: tuple[NonNegative, NonNegative, NonNegative] = (0.8, 0.1, 0.1),
        num_labelled: Rows | None = None,
        mixed_with: list[FilePath] = [],  # noqa: B006
        eval_batch_size: Count = 64,
        encoder: Text | None = None,
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
            num_labelled=num_labelled,
            seed=seed or 0,
            mixed_with=mixed_with,
        )
        self._check_encoder(encoder)
        self._batch_size, self._num_workers = batch_size, num_workers
        self._negatives, self._num_negatives, self._in_batch = negatives, num_negatives, in_batch
        self._known_only, self._mined_by = known_only, mined_by
        self._mine_depth, self._mine_margin = mine_depth, mine_margin
        self._num_partitions, self._seed = num_partitions, seed or 0
        self._check_negatives()
        self.partitions = None if self._own else self._partition(num_splits)
        self._table: CandidateTable | None = None
        self._on_device: Tensor | None = None

    @property
    def default_references(self) -> list[str]:
        """The references `bm25` and `encoder`."""
        return ["bm25", "encoder"]

    @property
    def shared_negatives(self) -> bool:
        """True, because queries are scored against all candidates of a batch."""
        return True

    @property
    def changes_with_ranker(self) -> bool:
        """Whether the ranker in training chooses the negatives of an epoch."""
        return self._negatives == "mined" and self._mined_by == "ranker"

    @property
    def steps_per_epoch(self) -> int:
        """The largest number of steps in an epoch; several processes may leave out some queries."""
        return -(-self.num_queries("train") // self._batch_size)

    def check_ranker(self, ranker: Any) -> None:
        """Refuse a ranker that cannot be trained on these batches.

        Raises:
            ConfigError: If the ranker would read the whole pool in each step, reads histories and the pool has none, or
                learns from whole sequences.
        """
        super().check_ranker(ranker)
        reading = ranker.reading()
        if reading.sequences is not None:
            problem = f"{ranker.name} learns from the sequences of users, not from queries with negatives."
            raise ConfigError("datamodule.name", problem, given="partitioned_candidates", cure="user_sequences")
        if reading.candidates is not None and not self._own and self._negatives in ("all", "pool"):
            problem = f"{self._negatives!r} with ranker.candidates=encoded encodes too much of the pool in each step."
            cure = "partition, batch or mined, or ranker.candidates=cached"
            raise ConfigError("datamodule.negatives", problem, cure=cure)

    def train_dataloader(self) -> EpochLoader:
        """Batches of training queries, shuffled and drawn anew in each epoch."""
        negatives = self._choice()
        self._table, self._on_device = negatives.table, None
        source = TrainingPoolBatches(
            self.pool,
            self._judgements,
            self._tokens["train"],
            negatives,
            partitions=self.partitions,
            num_own_parts=self._num_partitions,
            in_batch=self._in_batch or self._negatives == "batch",
            candidate_tokens=self._candidate_tokens,
            history=self._history,
            batch_size=self._batch_size,
            accumulated=self.accumulated,
            seed=self._seed,
            **self.process(),
        )
        # transfer_batch_to_device copies what all batches share only once.
        pin_memory = torch.cuda.is_available() and self._table is None
        return EpochLoader(source, num_workers=self._num_workers, pin_memory=pin_memory)

    def transfer_batch_to_device(self, batch: PoolBatch, device: torch.device, dataloader_idx: int) -> PoolBatch:
        """Copy a batch; a candidate table that all training batches share is copied only once."""
        if device.type != "cpu" and self._table is not None and torch.equal(batch.rows, self._table.rows):
            if self._on_device is None or self._on_device.device != device:
                self._on_device = self._table.features.to(device)
            batch = dataclasses.replace(batch, candidates=self._on_device)
        return batch.to(device)

    def _choice(self) -> Negatives:
        known, count = self._known(), self._num_negatives
        if self._negatives == "batch":
            return Sampled(self.pool, no_sample)
        if self._own:
            return Sampled(self.pool, FromOwn(self._judgements, None if self._negatives == "all" else count))
        if self._negatives == "mined":
            return Sampled(self.pool, FromMined(self._mine(), self._mine_margin, count, known))
        if self._negatives == "pool":
            return OneTable(self.pool, known)
        assert self.partitions is not None
        if self._negatives == "all":
            # So many parts together are most of the pool.
            most = self._batch_size >= self._num_partitions
            table = OneTable(self.pool, known).table if most else None
            return WholeParts(self.pool, self.partitions, known, table)
        return Sampled(self.pool, FromParts(self.partitions, self._judgements, count, known))

    def _known(self) -> Int[Tensor, " n"] | None:
        """The candidates that are right for some training query, with `known_only`; else None."""
        return self._judgements.relevant(self._splits["train"])[1].unique() if self._known_only else None

    def _mine(self) -> MinedLists:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        shared = self.process()["world"] > 1
        queries, depth = self._splits["train"], min(self._mine_depth, self.pool.num_candidates)
        # Before the first epoch, a ranker may not be on its device yet.
        by_ranker = self.changes_with_ranker and self.trainer is not None and self.trainer.current_epoch > 0
        scoring = self._scoring_of_ranker() if by_ranker else Scoring.of_encoder(self.pool, device)
        return MinedLists.mine(scoring, queries, depth, self._judgements, distributed=shared)

    @torch.no_grad()
    def _scoring_of_ranker(self) -> Scoring:
        """The scores of the ranker in training; processes share the reading of queries."""
        assert self.trainer is not None
        ranker: Any = self.trainer.lightning_module
        source = EvaluationPoolBatches(
            self.pool,
            self._judgements,
            self._tokens["train"],
            own=False,
            candidate_tokens=None,
            history=self._history,
            batch_size=self._eval_batch_size,
            **self.process(),
        )
        state, was_training = PoolEvaluationState(), ranker.training
        ranker.eval()
        with self.trainer.precision_plugin.forward_context():
            for step in range(source.num_steps()):
                batch = source.batch(0, step)
                state.update(batch.group, ranker.query_vectors(batch.to(ranker.device))[:, :1].cpu())
        ranker.refresh_candidates()
        ranker.train(was_training)
        found = state.compute()

        def vectors(queries: Int[Tensor, " Q"]) -> Tensor:
            return found.vectors[torch.searchsorted(found.queries, queries), 0].to(ranker.device)

        return Scoring(vectors, ranker.candidates_to_rank(), ranker.candidate_scales())

    def _partition(self, num_splits: int) -> Partitions:
        count = self.pool.num_candidates
        if self._num_partitions > count:
            problem = f"{count} candidates cannot be split into {self._num_partitions} parts."
            raise ConfigError("datamodule.num_partitions", problem, cure=f"{count} or less")
        return Partitions(count, self._num_partitions, num_splits, self._seed)

    def _check_encoder(self, wanted: str | None) -> None:
        made_by = self.pool.encoder["model"] if self.pool.encoder else None
        if wanted is not None and made_by != wanted:
            problem = f"its vectors are from {made_by or 'no known encoder'}, not from {wanted}."
            cure = "build the pool with that encoder, or correct datamodule.encoder"
            raise StoreError(str(self.pool.path), problem, cure=cure)

    def _check_negatives(self) -> None:
        train = self._splits["train"]
        if self._own:
            if self._negatives in ("pool", "mined"):
                problem = f"{self._negatives!r} are not in a query's own list."
                raise ConfigError("datamodule.negatives", problem, cure="partition or all, or candidates=pool")
            if self._known_only:
                problem = "says nothing for own lists, whose candidates are known to be wrong."
                raise ConfigError("datamodule.known_only", problem, cure="false, or candidates=pool")
            self._check_own_lists()
        elif self._negatives == "mined" and not bool(self.pool.queries.features(train[:1]).float().any()):
            problem = "the pool has no vectors of queries, so that nothing can be mined with them."
            raise ConfigError("datamodule.negatives", problem, cure="another choice, or a pool with an encoder")
        if self._negatives == "batch" and self._batch_size < 2:
            problem = "in a batch of one query there is no other's positive."
            raise ConfigError("datamodule.batch_size", problem, cure="2 or more")

    def _check_own_lists(self) -> None:
        smallest = int(self.own_sizes().min())
        if smallest < 2 * self._num_partitions and self._num_partitions > 1:
            problem = f"a list of {smallest} candidates in {self._num_partitions} parts leaves nothing to compare."
            cure = f"{max(1, smallest // 2)} or less"
            raise ConfigError("datamodule.num_partitions", problem, cure=cure)
