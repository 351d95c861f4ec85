"""Negatives: which candidates a query is trained against."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ranking.stores.candidate_pool import CandidatePool
from ranking.vectors.partitions import Partitions


@dataclass(frozen=True)
class Draw:
    """What chance has settled for the B queries of a batch before negatives are chosen.

    Args:
        queries: Their numbers in the pool.
        seeds: One for each query, for what is drawn for it alone.
        positives: The right candidate of each that is shown.
        split: The split of the pool they share.
        parts: The part of it that each query sees.
        own: The part of its own candidate list that each query sees, -1 beyond its end; None where it has the pool.
    """

    queries: Int[Tensor, " B"]
    seeds: Int[Tensor, " B"]
    positives: Int[Tensor, " B"]
    split: int
    parts: Int[Tensor, " B"]
    own: Int[Tensor, "B L"] | None = None

    def generators(self) -> Iterator[np.random.Generator]:
        """Each query's own randomness."""
        return map(np.random.default_rng, self.seeds.tolist())


@dataclass(frozen=True)
class CandidateTable:
    """Some candidates of a pool: their rows, ascending, each once, and their vectors."""

    rows: Int[Tensor, " C"]
    features: Float[Tensor, "C D"]

    @classmethod
    def gather(cls, pool: CandidatePool, rows: Int[Tensor, " n"]) -> "CandidateTable":
        """The vectors of these rows, in one gather."""
        rows = rows.unique()
        return cls(rows, pool.features(rows))

    def places(self, rows: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Where these rows are in the table, -1 where they are not."""
        return places_in(self.rows, rows)


@runtime_checkable
class Negatives(Protocol):
    """A way to choose negatives."""

    @property
    def table(self) -> CandidateTable | None:
        """The one table of all batches; None where each has its own."""
        ...

    def choose(self, draw: Draw, also: Int[Tensor, " n"]) -> tuple[CandidateTable, Bool[Tensor, "B C"]]:
        """The candidates of a batch and, for each query, which of them it is trained against.

        Args:
            draw: The queries.
            also: Rows that have to be in the table whatever is chosen.
        """
        ...


class OneTable:
    """The same candidates for every query of every batch, gathered once.

    Args:
        pool: Where they are.
        rows: Which; None for all.
    """

    def __init__(self, pool: CandidatePool, rows: Int[Tensor, " C"] | None = None) -> None:
        self.table = CandidateTable.gather(pool, torch.arange(pool.num_candidates) if rows is None else rows)

    def choose(self, draw: Draw, also: Int[Tensor, " n"]) -> tuple[CandidateTable, Bool[Tensor, "B C"]]:
        """The whole table."""
        return self.table, torch.ones(len(draw.queries), len(self.table.rows), dtype=torch.bool)


class WholeParts:
    """All candidates of the part that a query sees.

    Args:
        pool: Where candidates are.
        partitions: Of the pool.
        rows: Which candidates count; None for all.
        table: These, gathered, where batches see most of them anyway; None gathers each batch's parts.
    """

    def __init__(
        self,
        pool: CandidatePool,
        partitions: Partitions,
        rows: Int[Tensor, " n"] | None = None,
        table: CandidateTable | None = None,
    ) -> None:
        self.table = table
        self._pool, self._partitions = pool, partitions
        self._rows = torch.arange(pool.num_candidates) if rows is None else rows
        self._parts: dict[int, Tensor] = {}

    def choose(self, draw: Draw, also: Int[Tensor, " n"]) -> tuple[CandidateTable, Bool[Tensor, "B C"]]:
        """The parts of all queries, each for its own queries."""
        if draw.split not in self._parts:
            self._parts[draw.split] = self._partitions.parts(draw.split, self._rows).int()
        part = self._parts[draw.split]
        table = self.table
        if table is None:
            rows = self._rows[torch.isin(part, draw.parts.unique().int())]
            table = CandidateTable.gather(self._pool, torch.cat([rows, also]))
            at = places_in(self._rows, table.rows)
            part = torch.where(at < 0, -1, part[at])
        return table, part == draw.parts.unsqueeze(1)


class Sampled:
    """Some candidates for each query.

    Args:
        pool: Where they are.
        sample: Draws pairs (place in the batch, row).
    """

    table = None

    def __init__(self, pool: CandidatePool, sample: Callable[[Draw], tuple[Tensor, Tensor]]) -> None:
        self._pool, self._sample = pool, sample

    def choose(self, draw: Draw, also: Int[Tensor, " n"]) -> tuple[CandidateTable, Bool[Tensor, "B C"]]:
        """All that were drawn, each for the query it was drawn for."""
        of, rows = self._sample(draw)
        table = CandidateTable.gather(self._pool, torch.cat([rows, also]))
        mask = torch.zeros(len(draw.queries), len(table.rows), dtype=torch.bool)
        mask[of, table.places(rows)] = True
        return table, mask


def places_in(ascending: Int[Tensor, " C"], values: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Where values are among ascending ones, -1 where they are not."""
    if not len(ascending):
        return torch.full_like(values, -1)
    at = torch.searchsorted(ascending, values).clamp(max=len(ascending) - 1)
    return torch.where(ascending[at] == values, at, -1)
