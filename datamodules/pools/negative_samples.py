"""Negative samples: draws some negatives for each query from a given source."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from datamodules.pools.judgements import Judgements
from datamodules.pools.mining import MinedLists
from datamodules.pools.negatives import Draw, places_in
from ranking.vectors.partitions import Partitions


class FromParts:
    """Draws from the part of the pool that a query reads, without candidates that must not be negatives.

    Args:
        partitions: The splits of the pool.
        judgements: The candidates that must not be negatives.
        count: How many to draw for each query; all if there are fewer.
        rows: The candidates that may be drawn, ascending; None for all.
    """

    def __init__(
        self, partitions: Partitions, judgements: Judgements, count: int, rows: Int[Tensor, " n"] | None = None
    ) -> None:
        self._order = _Whole(partitions) if rows is None else _Chosen(partitions, rows)
        self._judgements, self._count = judgements, count

    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Draw pairs (place in the batch, row)."""
        of, rows = (pair.numpy() for pair in self._judgements.not_wrong(draw.queries))
        taken = self._order.places(draw.split, torch.from_numpy(rows)).numpy()
        drawn = []
        for place, (part, generator) in enumerate(zip(draw.parts.tolist(), draw.generators(), strict=True)):
            start, end = self._order.bounds(draw.split, part)
            mine = taken[of == place]
            mine = np.unique(mine[(mine >= start) & (mine < end)]) - start
            drawn.append(start + _sample(generator, end - start, mine, self._count))
        of_drawn, places = _flattened(drawn)
        return of_drawn, self._order.rows_at(draw.split, places)


class _Whole:
    """All candidates, in the order of a split, in which each part is contiguous."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self.places, self.rows_at = partitions.places, partitions.rows_at

    def bounds(self, split: int, part: int) -> tuple[int, int]:
        return self._partitions.bounds(part)


class _Chosen:
    """Some candidates, in an order in which each part of a split is contiguous."""

    def __init__(self, partitions: Partitions, rows: Int[Tensor, " n"]) -> None:
        self._partitions, self._rows = partitions, rows
        self._orders: dict[int, tuple[Tensor, Tensor, list[int]]] = {}

    def bounds(self, split: int, part: int) -> tuple[int, int]:
        starts = self._ordered(split)[2]
        return starts[part], starts[part + 1]

    def places(self, split: int, rows: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        at = places_in(self._rows, rows)
        return torch.where(at < 0, -1, self._ordered(split)[1][at])

    def rows_at(self, split: int, places: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        return self._rows[self._ordered(split)[0][places]]

    def _ordered(self, split: int) -> tuple[Tensor, Tensor, list[int]]:
        """The places in `rows`, ordered by part; the new position of each place; the start of each part."""
        if split not in self._orders:
            parts = self._partitions.parts(split, self._rows)
            sizes = torch.bincount(parts, minlength=self._partitions.num_partitions)
            order = parts.argsort(stable=True)
            self._orders[split] = order, order.argsort(), [0, *sizes.cumsum(0).tolist()]
        return self._orders[split]


@dataclass(frozen=True)
class FromOwn:
    """Draws from the part of a query's own list that it reads; all of the part if `count` is None."""

    judgements: Judgements
    count: int | None

    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Draw pairs (place in the batch, row)."""
        assert draw.own is not None
        of, rows = self.judgements.not_wrong(draw.queries)
        drawn = []
        for place, generator in enumerate(draw.generators()):
            listed = draw.own[place][draw.own[place] >= 0].numpy()
            allowed = listed[~np.isin(listed, rows[of == place].numpy())]
            drawn.append(_some(generator, allowed, self.count or len(allowed)))
        return _flattened(drawn)


@dataclass(frozen=True)
class FromMined:
    """Draws from the candidates that the frozen encoder or the ranker in training ranks highest.

    Args:
        mined: The lists of these candidates, without those that must not be negatives.
        margin: Leave out candidates whose score is above this share of the positive's score, or as far below it if that
            is negative: they may be right although nobody judged them. None to keep all.
        count: How many to draw for each query; all if there are fewer.
        rows: The candidates that may be drawn; None for all.
    """

    mined: MinedLists
    margin: float | None
    count: int
    rows: Int[Tensor, " n"] | None = None

    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Draw pairs (place in the batch, row)."""
        rows, scores = self.mined.of(draw.queries)
        allowed = rows >= 0
        if self.margin is not None:
            right = self.mined.score(draw.queries, draw.positives)
            highest = right - (1 - self.margin) * right.abs()
            allowed &= scores <= highest.unsqueeze(1)
        if self.rows is not None:
            allowed &= places_in(self.rows, rows) >= 0
        lists = (row[may].numpy() for row, may in zip(rows, allowed, strict=True))
        return _flattened(
            [_some(generator, listed, self.count) for listed, generator in zip(lists, draw.generators(), strict=True)]
        )


def no_sample(draw: Draw) -> tuple[Tensor, Tensor]:
    """Draw nothing: all negatives are other queries' positives."""
    return _flattened([])


def _sample(generator: np.random.Generator, size: int, taken: np.ndarray, count: int) -> np.ndarray:
    """Draw different numbers below `size` that are not in `taken`, which is ascending."""
    free = size - len(taken)
    drawn = generator.choice(free, min(count, free), replace=False, shuffle=False) if free else taken[:0]
    # There are taken[i] - i free numbers below taken[i].
    return drawn + np.searchsorted(taken - np.arange(len(taken)), drawn, side="right")


def _some(generator: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    return values if len(values) <= count else generator.choice(values, count, replace=False, shuffle=False)


def _flattened(lists: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    of = torch.arange(len(lists)).repeat_interleave(torch.tensor([len(each) for each in lists], dtype=torch.int64))
    values = np.concatenate(lists) if lists else np.empty(0)
    return of, torch.from_numpy(values.astype(np.int64))
