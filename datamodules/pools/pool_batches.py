"""Pool batches: queries as tokens, with their candidates for training or evaluation."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from datamodules.pools.judgements import Judgements
from datamodules.pools.length_buckets import length_buckets
from datamodules.pools.negatives import CandidateTable, Draw, Negatives
from datamodules.pools.token_lists import TokenLists
from ranking.pools.pool_batch import PoolBatch
from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.partitions import Partitions
from registry import ConfigError


class TrainingPoolBatches:
    """Each query once per epoch, with one positive and its negatives, as a function of only (seed, epoch, step).

    A batch contains queries of similar length; if the model in training encodes candidates, the positive's length is
    added to the query's. Each process has the same number of queries, so an epoch on N processes may leave out up to
    N - 1 queries.

    Args:
        pool: The pool of candidates.
        judgements: The right and excluded candidates of the queries.
        tokens: The tokens of the training queries; each query must have a right candidate.
        negatives: Chooses the negatives.
        partitions: The splits of the pool; None if each query reads parts of its own list.
        num_own_parts: The number of parts that such a list is split into.
        in_batch: Also use the other queries' positives as negatives, over all processes.
        candidate_tokens: The candidates' tokens, if the model in training encodes them; else None.
        history: Rows of the candidates in each query's history, if the ranker reads histories; else None.
        batch_size: Queries per batch, over all processes.
        accumulated: Batches per step of the optimizer, which takes the mean of their gradients.
        seed: The seed of all random choices.
        rank: The number of this process.
        world: The number of processes.

    Raises:
        ConfigError: If the number of processes does not divide `batch_size`, or exceeds the number of queries.
    """

    def __init__(
        self,
        pool: CandidatePool,
        judgements: Judgements,
        tokens: TokenLists,
        negatives: Negatives,
        *,
        partitions: Partitions | None,
        num_own_parts: int,
        in_batch: bool,
        candidate_tokens: TokenLists | None,
        history: TokenLists | None = None,
        batch_size: int,
        accumulated: int = 1,
        seed: int,
        rank: int,
        world: int,
    ) -> None:
        if batch_size % world:
            problem = f"{batch_size} queries cannot be shared evenly by {world} processes."
            raise ConfigError("datamodule.batch_size", problem, cure=f"a multiple of {world}")
        self._pool, self._judgements, self._tokens, self._negatives = pool, judgements, tokens, negatives
        self._partitions, self._num_own_parts, self._in_batch = partitions, num_own_parts, in_batch
        self._candidate_tokens, self._history, self._batch_size = candidate_tokens, history, batch_size
        self._seed, self._rank, self._world = seed, rank, world
        self._num_queries = len(tokens.index) - len(tokens.index) % world
        if not self._num_queries:
            raise ConfigError(str(pool.path), f"{len(tokens.index)} queries to train on, and {world} processes.")
        # The number of queries with weight 1: those of a full step, per batch of the step.
        self._full_size = min(batch_size * accumulated, self._num_queries) / accumulated
        self._epoch = -1

    def num_steps(self) -> int:
        """The number of steps per epoch; one of them may be smaller."""
        return -(-self._num_queries // self._batch_size)

    def batch(self, epoch: int, step: int) -> PoolBatch:
        """The part of a step's batch that this process trains on."""
        if epoch != self._epoch:
            self._plan(epoch)
        everyone = self._batches[step]
        mine = torch.arange(self._rank, len(everyone), self._world)
        positives = self._positives[everyone]
        draw = self._draw(step, everyone[mine])
        table, mask = self._negatives.choose(draw, positives if self._in_batch else draw.positives)
        if self._in_batch:
            mask[:, table.places(positives)] = True
        of, rows = self._judgements.not_wrong(draw.queries)
        at = table.places(rows)
        mask[of[at >= 0], at[at >= 0]] = False
        right = torch.arange(len(mine)), table.places(draw.positives)
        mask[right] = True
        relevance = torch.zeros(mask.shape)
        relevance[right] = self._labels[everyone[mine]]
        tokens, lengths = self._tokens.padded(draw.queries)
        partition = torch.full_like(draw.queries, -1)
        if self._partitions is not None:
            partition = draw.split * self._partitions.num_partitions + draw.parts
        return PoolBatch(
            labels=relevance,
            mask=mask,
            group=draw.queries,
            slot=torch.where(mask, table.rows, -1),
            rows=table.rows,
            candidates=table.features,
            tokens=tokens,
            lengths=lengths,
            partition=partition,
            own=draw.own,
            weight=len(mine) * self._world / self._full_size,
            history=_padded(self._history, draw.queries),
            user=self._pool.queries.user[draw.queries],
            **_encoded(self._candidate_tokens, table),
        )

    def _plan(self, epoch: int) -> None:
        """Make all random choices of an epoch at once."""
        generator = torch.Generator().manual_seed(hash((self._seed, epoch)) % 2**63)
        count = len(self._tokens.index)
        self._positives, self._labels = self._judgements.drawn(
            self._tokens.index, torch.rand(count, generator=generator, dtype=torch.float64)
        )
        lengths = (self._history or self._tokens).lengths(self._tokens.index)
        if self._candidate_tokens is not None:
            lengths += self._candidate_tokens.lengths(self._positives)
        kept = torch.randperm(count, generator=generator)[: self._num_queries]
        self._batches = [kept[places] for places in length_buckets(lengths[kept], self._batch_size, generator)]
        self._seeds = torch.randint(2**62, (count,), generator=generator)
        self._parts = torch.zeros(count, dtype=torch.int64)
        self._splits = torch.zeros(len(self._batches), dtype=torch.int64)
        if self._partitions is not None:
            self._parts.random_(self._partitions.num_partitions, generator=generator)
            self._splits.random_(self._partitions.num_splits, generator=generator)
        self._epoch = epoch

    def _draw(self, step: int, picked: Int[Tensor, " B"]) -> Draw:
        queries, seeds = self._tokens.index[picked], self._seeds[picked]
        own = None if self._partitions is not None else self._own_parts(queries, seeds)
        return Draw(queries, seeds, self._positives[picked], int(self._splits[step]), self._parts[picked], own)

    def _own_parts(self, queries: Int[Tensor, " B"], seeds: Int[Tensor, " B"]) -> Int[Tensor, "B L"]:
        """A random part of each query's own list, in the order of the list."""
        parts = []
        for listed, seed in zip(self._judgements.own(queries), seeds.tolist(), strict=True):
            listed = listed[listed >= 0]
            order = np.random.default_rng((seed, 1)).permutation(len(listed))[:: self._num_own_parts]
            parts.append(listed[torch.from_numpy(np.sort(order))])
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)


class EvaluationPoolBatches:
    """Each query once, in one process only, the longest first, with only its right candidates.

    Args:
        pool: The pool of candidates.
        judgements: The right and excluded candidates of the queries.
        tokens: The tokens of the queries.
        own: Whether each query ranks its own list.
        candidate_tokens: The candidates' tokens, if the model in training encodes them; else None.
        history: Rows of the candidates in each query's history, if the ranker reads histories; else None.
        batch_size: Queries per step of one process.
        rank: The number of this process.
        world: The number of processes.
    """

    def __init__(
        self,
        pool: CandidatePool,
        judgements: Judgements,
        tokens: TokenLists,
        *,
        own: bool,
        candidate_tokens: TokenLists | None,
        history: TokenLists | None = None,
        batch_size: int,
        rank: int,
        world: int,
    ) -> None:
        self._pool, self._judgements, self._tokens, self._own = pool, judgements, tokens, own
        self._candidate_tokens, self._history, self._batch_size = candidate_tokens, history, batch_size
        order = tokens.lengths(tokens.index).argsort(descending=True, stable=True)
        self._queries, self._share = tokens.index[order[rank::world]], -(-len(order) // world)

    def num_steps(self) -> int:
        """As many in each process, at least one; the last may be empty: every process takes part in gathering."""
        return max(1, -(-self._share // self._batch_size))

    def batch(self, epoch: int, step: int) -> PoolBatch:
        """The batch of one step, the same in every epoch."""
        queries = self._queries[step * self._batch_size : (step + 1) * self._batch_size]
        of, rows, labels = self._judgements.relevant(queries)
        table = CandidateTable.gather(self._pool, rows)
        at = table.places(rows)
        mask = torch.zeros(len(queries), len(table.rows), dtype=torch.bool)
        relevance = torch.zeros(mask.shape)
        mask[of, at] = True
        relevance[of, at] = labels
        tokens, lengths = self._tokens.padded(queries)
        return PoolBatch(
            labels=relevance,
            mask=mask,
            group=queries,
            slot=torch.where(mask, table.rows, -1),
            rows=table.rows,
            candidates=table.features,
            tokens=tokens,
            lengths=lengths,
            partition=torch.full_like(queries, -1),
            own=self._judgements.own(queries) if self._own else None,
            removed=None if self._own else self._judgements.removed(queries),
            history=_padded(self._history, queries),
            user=self._pool.queries.user[queries],
            **_encoded(self._candidate_tokens, table),
        )


def _encoded(tokens: TokenLists | None, table: CandidateTable) -> dict[str, Any]:
    if tokens is None:
        return {}
    padded, lengths = tokens.padded(table.rows)
    return {"candidate_tokens": padded, "candidate_lengths": lengths}


def _padded(history: TokenLists | None, queries: Int[Tensor, " B"]) -> Int[Tensor, "B H"] | None:
    """The histories of queries, oldest first, padded with -1 on the right."""
    if history is None:
        return None
    rows, lengths = history.padded(queries)
    return rows.masked_fill(torch.arange(rows.shape[1]) >= lengths.unsqueeze(1), -1)
