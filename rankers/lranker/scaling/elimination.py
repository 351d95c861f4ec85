"""Elimination: each step splits a query's candidates into random parts and keeps the best of each part."""

import functools
import math
import random
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranking.vectors.products import Scorer, full_precision
from ranking.vectors.search import AnyPool, as_pool

# The most bytes of scores or vectors in memory at once; a pool of at most this size is read into memory.
_BYTES = 1 << 30
# Bytes per score to choose the best: its place among the parts, its sort key, and the memory for sorting.
_BYTES_A_CHOICE = 40
_BLOCK_VALUES = 1 << 23
_LOW = (1 << 32) - 1


class Elimination:
    """The remaining candidates of B queries; -1 is padding.

    Parts are cut from a random order, which depends only on seed, step and row. So a query has the same parts in every
    batch and on every device.

    Args:
        pool: The candidates; a small one is read into memory.
        device: Where the queries' vectors are.
        keep: Share of each part to keep, rounded up; at least one candidate is kept.
        limit: The most candidates to keep of all parts together; each part keeps an equal share, at least one.
        seed: The seed of the random order.
        inverse_norms: 1 / length of each candidate vector, to score by cosine; None to score by inner product.
        own: Each query's own candidates, padded with -1, if it ranks only these; None to rank the pool.
        removed: Pairs (query, row) of a pool that are not candidates; they are removed after the pool is split.
    """

    def __init__(
        self,
        pool: AnyPool,
        device: torch.device,
        *,
        keep: float,
        limit: int,
        seed: int,
        inverse_norms: Float[Tensor, " N"] | None = None,
        own: Int[Tensor, "B L"] | None = None,
        removed: Int[Tensor, "R 2"] | None = None,
    ) -> None:
        self._pool, self._table = as_pool(pool), _table(pool, device)
        self._num_candidates, self._device = self._pool.num_candidates, device
        self._keep, self._limit, self._seed = keep, limit, seed
        self._norms, self._own, self._removed = (
            None if given is None else given.to(device) for given in (inverse_norms, own, removed)
        )

    def first(self, vectors: Float[Tensor, "B D"], widths: Sequence[int]) -> dict[int, Int[Tensor, "B k c"]]:
        """The first step on the pool or on the queries' own candidates: what is kept for each number k of parts."""
        if self._own is not None:
            rows = self._own.unsqueeze(1)
            return {width: self.next(vectors, rows, width, step=0) for width in widths}
        order = _order(self._num_candidates, self._seed, self._device)
        count = torch.tensor([self._num_candidates], device=self._device)
        found: dict[int, list[Tensor]] = {width: [] for width in widths}
        for chunk in _portions(len(vectors), 4 * self._num_candidates):
            scores = self._pool_scores(vectors[chunk])
            if self._removed is not None:
                query, row = self._removed.unbind(dim=1)
                here = (query >= chunk.start) & (query < chunk.stop)
                scores[query[here] - chunk.start, row[here]] = -torch.inf
            for few in _portions(len(scores), _BYTES_A_CHOICE * self._num_candidates):
                in_order = scores[few][:, order]
                for width in widths:
                    places = self._best(in_order, count, width)
                    found[width].append(torch.where(places >= 0, order[places], -1))
        return {width: torch.cat(rows) for width, rows in found.items()}

    def next(
        self, vectors: Float[Tensor, "B D"], rows: Int[Tensor, "B j n"], width: int, step: int
    ) -> Int[Tensor, "B k c"]:
        """A later step: split the remaining candidates into parts, if there are enough, and keep the best of each."""
        rows, found = rows.flatten(1), []
        for few in _portions(len(rows), 4 * rows.shape[1] * vectors.shape[1]):
            left = rows[few]
            keys = torch.where(left >= 0, _random(left, self._seed, step), _LOW + 1)
            left = left.gather(1, keys.argsort(dim=1))
            places = self._best(self._scores(vectors[few], left), (left >= 0).sum(dim=1), width)
            kept = left.gather(1, places.clamp(min=0).flatten(1)).view(places.shape)
            found.append(torch.where(places >= 0, kept, -1))
        return torch.cat(found)

    def best(self, vectors: Float[Tensor, "B D"], rows: Int[Tensor, "B k c"], count: int) -> Int[Tensor, "B n"]:
        """The best of each query's remaining candidates, best first; -1 where it has fewer than `count`."""
        rows, found = rows.flatten(1), []
        for few in _portions(len(rows), 4 * rows.shape[1] * vectors.shape[1]):
            scores = self._scores(vectors[few], rows[few]).masked_fill(rows[few] < 0, -torch.inf)
            places = _sortable(scores).topk(min(count, rows.shape[1]), dim=1).indices
            found.append(rows[few].gather(1, places))
        return torch.cat(found)

    def vectors(self, rows: Int[Tensor, "P c"]) -> tuple[Float[Tensor, "n D"], Int[Tensor, "P c"]]:
        """A table with the stored vectors of some candidates, and the places of the candidates in the table."""
        if self._table is not None:
            return self._table, rows.clamp(min=0)
        unique, places = rows.clamp(min=0).unique(return_inverse=True)
        return self._pool.features(unique.cpu()).to(self._device), places

    def portions(self, rows: Int[Tensor, "B k c"], feature_dim: int) -> Iterator[slice]:
        """Split the queries so that the candidate vectors of each portion fit into memory."""
        return _portions(len(rows), 4 * feature_dim * rows[0].numel())

    def _best(self, scores: Float[Tensor, "q n"], count: Int[Tensor, " _q"], width: int) -> Int[Tensor, "q k c"]:
        """The places of the candidates to keep of each part, best first; at equal scores, the lower place wins.

        The first `count` places of a query are its candidates in random order. The parts are consecutive slices of
        them; if the slices cannot be equal, each of the first parts has one candidate more. A score of -inf marks a row
        that is not a candidate.
        """
        width = min(width, scores.shape[1])
        part = torch.arange(width, device=scores.device)
        place = torch.arange(math.ceil(scores.shape[1] / width), device=scores.device)
        share, rest = (count // width).unsqueeze(1), (count % width).unsqueeze(1)
        inside = place < (share + (part < rest)).unsqueeze(2)
        index = (part * share + torch.minimum(part, rest)).unsqueeze(2) + place
        index = index.clamp(max=scores.shape[1] - 1).expand(len(scores), -1, -1)
        parts = scores.gather(1, index.flatten(1)).view(index.shape).masked_fill(~inside, -torch.inf)
        most = max(1, self._limit // width)
        # Subtract a small number before rounding up: 0.1 * 30 is slightly more than 3 in floating point.
        size = (parts > -torch.inf).sum(dim=2, keepdim=True).double()
        stay = (size * self._keep - 1e-9).ceil().clamp(min=1, max=most).minimum(size)
        best = _sortable(parts).topk(min(most, math.ceil(len(place) * self._keep)), dim=2).indices
        kept = torch.arange(best.shape[2], device=scores.device) < stay
        return torch.where(kept, index.gather(2, best), -1)

    def _scores(self, vectors: Float[Tensor, "q D"], rows: Int[Tensor, "q n"]) -> Float[Tensor, "q n"]:
        """Score some candidates of each query, by one product with the whole pool if that moves less memory."""
        if self._table is not None and self._num_candidates < 3 * rows.numel():
            return self._pool_scores(vectors).gather(1, rows.clamp(min=0))
        table, places = self.vectors(rows)
        with full_precision(self._device):
            scores = torch.einsum("qd,qnd->qn", vectors, table[places].float())
        return scores if self._norms is None else scores * self._norms[rows.clamp(min=0)]

    def _pool_scores(self, vectors: Float[Tensor, "q D"]) -> Float[Tensor, "q N"]:
        """Scores of all candidates."""
        size = max(1, min(self._num_candidates, _BLOCK_VALUES // vectors.shape[1]))
        scorer = Scorer(vectors, self._pool.dtype, size)
        scores, start = vectors.new_empty(len(vectors), self._num_candidates), 0
        with full_precision(self._device):
            for block in as_pool(self._pool if self._table is None else self._table).blocks(size=size):
                found = scorer.score(slice(0, len(vectors)), scorer.load(block))
                scores[:, start : start + len(block)] = found[:, : len(block)]
                start += len(block)
        return scores if self._norms is None else scores.mul_(self._norms)


def _table(pool: AnyPool, device: torch.device) -> Float[Tensor, "N D"] | None:
    """All vectors on the device, if they are already there or small enough to copy."""
    if isinstance(pool, Tensor) and pool.device == device:
        return pool
    pool = as_pool(pool)
    first, *more = pool.blocks(size=pool.num_candidates)
    if pool.num_candidates * first.shape[1] * first.dtype.itemsize > _BYTES:
        return None
    return (torch.cat([first, *more]) if more else first).to(device)


def _portions(count: int, size: int) -> Iterator[slice]:
    """Split `count` items of `size` bytes each into portions that fit into memory, at least one item each."""
    at_once = max(1, _BYTES // max(1, size))
    return (slice(start, min(start + at_once, count)) for start in range(0, count, at_once))


@functools.lru_cache(maxsize=1)
def _order(num_candidates: int, seed: int, device: torch.device) -> Int[Tensor, " N"]:
    """All rows in the random order of the first step; cached, because every batch of queries needs it."""
    return _random(torch.arange(num_candidates, device=device), seed, step=0).argsort()


def _random(rows: Int[Tensor, "*shape"], seed: int, step: int) -> Int[Tensor, "*shape"]:
    """32 random bits for each row, different for different rows: two rounds of a bijective hash."""
    bits = rows ^ random.Random(f"{seed} {step}").getrandbits(32)
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * 0x45D9F3B) & _LOW
    return bits ^ (bits >> 16)


def _sortable(scores: Float[Tensor, "*shape n"]) -> Int[Tensor, "*shape n"]:
    """Distinct integers in the order of the scores; at equal scores, the first is the largest."""
    bits = (scores + 0.0).view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.long() << 32) + torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)
