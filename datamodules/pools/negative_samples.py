"""Negative samples: some candidates for each query, drawn from where negatives shall come from."""

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
    """Draws from the part of the pool that a query sees, what may not count as wrong left out.

    Args:
        partitions: Of the pool.
        judgements: What may not count as wrong.
        count: How many for each query; all where there are fewer.
        rows: Which candidates may be drawn, ascending; None for all.
    """

    def __init__(
        self, partitions: Partitions, judgements: Judgements, count: int, rows: Int[Tensor, " n"] | None = None
    ) -> None:
        self._order = _Whole(partitions) if rows is None else _Chosen(partitions, rows)
        self._judgements, self._count = judgements, count

    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Pairs (place in the batch, row)."""
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
    """All candidates, in the order of a split, where each part is one run."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self.places, self.rows_at = partitions.places, partitions.rows_at

    def bounds(self, split: int, part: int) -> tuple[int, int]:
        return self._partitions.bounds(part)


class _Chosen:
    """Some candidates, ordered so that those of a part of a split are one run."""

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
        """The places in `rows`, part by part; where each of these ends up; where each part begins."""
        if split not in self._orders:
            parts = self._partitions.parts(split, self._rows)
            sizes = torch.bincount(parts, minlength=self._partitions.num_partitions)
            order = parts.argsort(stable=True)
            self._orders[split] = order, order.argsort(), [0, *sizes.cumsum(0).tolist()]
        return self._orders[split]


@dataclass(frozen=True)
class FromOwn:
    """Draws from the part of its own list that a query sees; all of it where `count` is None."""

    judgements: Judgements
    count: int | None

    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Pairs (place in the batch, row)."""
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
    """Draws from what the frozen encoder ranks highest.

    Args:
        mined: These lists, without what may not count as wrong.
        margin: If set, candidates that the encoder scores above this share of the positive's score are left out: they
            may be right without anybody having said so.
        count: How many for each query; all where there are fewer.
        rows: Which candidates may be drawn; None for all.
    """

    mined: MinedLists
    margin: float | None
    count: int
    rows: Int[Tensor, " n"] | None = None

    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Pairs (place in the batch, row)."""
        rows, scores = self.mined.of(draw.queries)
        allowed = rows >= 0
        if self.margin is not None:
            highest = self.margin * self.mined.score(draw.queries, draw.positives)
            allowed &= scores <= highest.unsqueeze(1)
        if self.rows is not None:
            allowed &= places_in(self.rows, rows) >= 0
        lists = (row[may].numpy() for row, may in zip(rows, allowed, strict=True))
        return _flattened(
            [_some(generator, listed, self.count) for listed, generator in zip(lists, draw.generators(), strict=True)]
        )


def no_sample(draw: Draw) -> tuple[Tensor, Tensor]:
    """Draws nothing: all negatives are other queries' positives."""
    return _flattened([])


def _sample(generator: np.random.Generator, size: int, taken: np.ndarray, count: int) -> np.ndarray:
    """Different numbers below `size`, none of them taken; `taken` is ascending."""
    free = size - len(taken)
    drawn = generator.choice(free, min(count, free), replace=False, shuffle=False) if free else taken[:0]
    # The i-th taken number has taken[i] - i free ones below it.
    return drawn + np.searchsorted(taken - np.arange(len(taken)), drawn, side="right")


def _some(generator: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    return values if len(values) <= count else generator.choice(values, count, replace=False, shuffle=False)


def _flattened(lists: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    of = torch.arange(len(lists)).repeat_interleave(torch.tensor([len(each) for each in lists], dtype=torch.int64))
    values = np.concatenate(lists) if lists else np.empty(0)
    return of, torch.from_numpy(values.astype(np.int64))
