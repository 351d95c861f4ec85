"""Sequence batches: pieces of users' sequences, or one step of many sequences at a time."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.pools.length_buckets import length_buckets
from datamodules.pools.token_lists import TokenLists
from ranking.pools.pool_batch import PoolBatch
from ranking.stores.candidate_pool import CandidatePool
from registry import ConfigError


class SequenceBatches:
    """Each piece once per epoch, as a function of only (seed, epoch, step); a batch has pieces of similar length.

    Each process has the same number of pieces, so an epoch on N processes may leave out up to N - 1 pieces.

    Args:
        pool: The pool of items.
        pieces: The pieces; `index` may have the same query several times.
        batch_size: Pieces per step, over all processes.
        seed: The seed of all random choices.
        rank: The number of this process.
        world: The number of processes.

    Raises:
        ConfigError: If the number of processes does not divide `batch_size`, or exceeds the number of pieces.
    """

    def __init__(
        self, pool: CandidatePool, pieces: TokenLists, *, batch_size: int, seed: int, rank: int, world: int
    ) -> None:
        _check_shares(pool, batch_size, len(pieces.index), world, "sequences")
        self._pool, self._pieces, self._batch_size = pool, pieces, batch_size
        self._seed, self._rank, self._world = seed, rank, world
        self._num_pieces = len(pieces.index) - len(pieces.index) % world
        self._epoch = -1

    def num_steps(self) -> int:
        """The number of steps per epoch; one of them may be smaller."""
        return -(-self._num_pieces // self._batch_size)

    def batch(self, epoch: int, step: int) -> PoolBatch:
        """The part of a step's batch that this process trains on."""
        if epoch != self._epoch:
            generator = _generator(self._seed, epoch)
            kept = torch.randperm(len(self._pieces.index), generator=generator)[: self._num_pieces]
            lengths = self._pieces.offsets.diff()[kept]
            self._batches = [kept[places] for places in length_buckets(lengths, self._batch_size, generator)]
            self._epoch = epoch
        mine = self._batches[step][self._rank :: self._world]
        start, end = self._pieces.offsets[mine], self._pieces.offsets[mine + 1]
        place = torch.arange(int((end - start).max())) + start.unsqueeze(1)
        there = place < end.unsqueeze(1)
        items = torch.full(place.shape, -1)
        items[there] = self._pieces.flat[place[there]].long()
        no_rows = torch.zeros(0, dtype=torch.int64)
        return _batch(self._pool, self._pieces.index[mine], items, no_rows, torch.zeros(len(mine), 0))


class LaneBatches:
    """One step of `batch_size` lanes: an item of each and the next one (Hidasi et al. 2016, figure 2).

    The sequences of all users, shuffled in each epoch, follow one another; this stream is cut into lanes of equal
    length, so that at most one sequence per lane is divided. `rows` has the next items of all lanes of all processes.
    `group` has the query of each lane's sequence: where it differs from that of the step before, a new one begins.

    Args:
        pool: The pool of items.
        sequences: The sequences of users, each with two items or more.
        batch_size: Lanes over all processes.
        seed: The seed of all random choices.
        rank: The number of this process.
        world: The number of processes.

    Raises:
        ConfigError: If the number of processes does not divide `batch_size`, or there are fewer pairs of items than
            lanes.
    """

    def __init__(
        self, pool: CandidatePool, sequences: TokenLists, *, batch_size: int, seed: int, rank: int, world: int
    ) -> None:
        sizes = sequences.offsets.diff()
        self._num_pairs = int((sizes - 1).clamp(min=0).sum())
        _check_shares(pool, batch_size, self._num_pairs // batch_size * world, world, "items for each lane")
        self._pool, self._sequences, self._batch_size = pool, sequences, batch_size
        self._seed, self._rank, self._world = seed, rank, world
        self._epoch = -1

    def num_steps(self) -> int:
        """The number of steps per epoch; up to `batch_size` - 1 pairs at the end of the stream are left out."""
        return self._num_pairs // self._batch_size

    def batch(self, epoch: int, step: int) -> PoolBatch:
        """The items of this process's lanes at one step, and the items after them."""
        if epoch != self._epoch:
            self._plan(epoch)
        first = self._first[torch.arange(self._batch_size) * self.num_steps() + step]
        items = self._sequences.flat[first.unsqueeze(1) + torch.arange(2)].long()
        sequence = torch.searchsorted(self._sequences.offsets, first, right=True) - 1
        mine = slice(self._rank, None, self._world)
        labels = torch.eye(self._batch_size)[mine]
        return _batch(self._pool, self._sequences.index[sequence[mine]], items[mine], items[:, 1], labels)

    def _plan(self, epoch: int) -> None:
        offsets = self._sequences.offsets
        order = torch.randperm(len(offsets) - 1, generator=_generator(self._seed, epoch))
        counts = (offsets.diff() - 1).clamp(min=0)[order]
        within = torch.arange(self._num_pairs) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        self._first = offsets[order].repeat_interleave(counts) + within
        self._epoch = epoch


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(hash((seed, epoch)) % 2**63)


def _check_shares(pool: CandidatePool, batch_size: int, count: int, world: int, what: str) -> None:
    if batch_size % world:
        problem = f"{batch_size} sequences cannot be shared evenly by {world} processes."
        raise ConfigError("datamodule.batch_size", problem, cure=f"a multiple of {world}")
    if count < world:
        problem = f"too few {what} to train on: {count} for {world} processes and a batch size of {batch_size}."
        raise ConfigError(str(pool.path), problem, cure="a smaller datamodule.batch_size, or more data")


def _batch(
    pool: CandidatePool,
    queries: Int[Tensor, " B"],
    items: Int[Tensor, "B T"],
    rows: Int[Tensor, " K"],
    labels: Float[Tensor, "B K"],
) -> PoolBatch:
    return PoolBatch(
        labels=labels,
        mask=torch.ones(labels.shape, dtype=torch.bool),
        group=queries,
        slot=rows.expand(labels.shape),
        rows=rows,
        candidates=pool.features(rows),
        tokens=torch.zeros(len(queries), 0, dtype=torch.int64),
        lengths=torch.zeros_like(queries),
        partition=torch.full_like(queries, -1),
        history=items,
        user=pool.queries.user[queries],
    )
