"""Negatives: chooses the negatives of each query."""

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
    """The random choices for the B queries of a batch, made before negatives are chosen.

    Args:
        queries: The queries' numbers in the pool.
        seeds: One seed per query, for draws that concern only this query.
        positives: The drawn right candidate of each query.
        split: The number of the split that all queries use.
        parts: The part of this split that each query reads.
        own: The part of its own candidate list that each query reads, padded with -1; None if queries rank the pool.
    """

    queries: Int[Tensor, " B"]
    seeds: Int[Tensor, " B"]
    positives: Int[Tensor, " B"]
    split: int
    parts: Int[Tensor, " B"]
    own: Int[Tensor, "B L"] | None = None

    def generators(self) -> Iterator[np.random.Generator]:
        """One random generator per query."""
        return map(np.random.default_rng, self.seeds.tolist())


@dataclass(frozen=True)
class CandidateTable:
    """Some candidates of a pool: their rows, ascending and without duplicates, and their vectors."""

    rows: Int[Tensor, " C"]
    features: Float[Tensor, "C D"]

    @classmethod
    def gather(cls, pool: CandidatePool, rows: Int[Tensor, " n"]) -> "CandidateTable":
        """Read the vectors of these rows with one gather."""
        rows = rows.unique()
        return cls(rows, pool.features(rows))

    def places(self, rows: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The places of these rows in the table; -1 for rows that are not in it."""
        return places_in(self.rows, rows)


@runtime_checkable
class Negatives(Protocol):
    """A way to choose negatives."""

    @property
    def table(self) -> CandidateTable | None:
        """The table that all batches share; None if each batch has its own."""
        ...

    def choose(self, draw: Draw, also: Int[Tensor, " n"]) -> tuple[CandidateTable, Bool[Tensor, "B C"]]:
        """The candidates of a batch and, for each query, which of them are its negatives.

        Args:
            draw: The queries and their random choices.
            also: Rows that the table must contain in any case.
        """
        ...


class OneTable:
    """The same candidates for every query of every batch, gathered once.

    Args:
        pool: The pool of the candidates.
        rows: The candidates' rows; None for all.
    """

    def __init__(self, pool: CandidatePool, rows: Int[Tensor, " C"] | None = None) -> None:
        self.table = CandidateTable.gather(pool, torch.arange(pool.num_candidates) if rows is None else rows)

    def choose(self, draw: Draw, also: Int[Tensor, " n"]) -> tuple[CandidateTable, Bool[Tensor, "B C"]]:
        """The whole table."""
        return self.table, torch.ones(len(draw.queries), len(self.table.rows), dtype=torch.bool)


class WholeParts:
    """All candidates of the part of the pool that a query reads.

    Args:
        pool: The pool of the candidates.
        partitions: The splits of the pool.
        rows: The candidates that may be negatives; None for all.
        table: A table of these candidates for all batches, if a batch needs most of them; None to gather per batch.
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
        """The candidates of all drawn parts; a query's negatives are those of its own part."""
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
        pool: The pool of the candidates.
        sample: Draws pairs (place in the batch, row).
    """

    table = None

    def __init__(self, pool: CandidatePool, sample: Callable[[Draw], tuple[Tensor, Tensor]]) -> None:
        self._pool, self._sample = pool, sample

    def choose(self, draw: Draw, also: Int[Tensor, " n"]) -> tuple[CandidateTable, Bool[Tensor, "B C"]]:
        """All drawn candidates; each is a negative only of the query it was drawn for."""
        of, rows = self._sample(draw)
        table = CandidateTable.gather(self._pool, torch.cat([rows, also]))
        mask = torch.zeros(len(draw.queries), len(table.rows), dtype=torch.bool)
        mask[of, table.places(rows)] = True
        return table, mask


def places_in(ascending: Int[Tensor, " C"], values: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The places of values in an ascending tensor; -1 for values that are not in it."""
    if not len(ascending):
        return torch.full_like(values, -1)
    at = torch.searchsorted(ascending, values).clamp(max=len(ascending) - 1)
    return torch.where(ascending[at] == values, at, -1)
