"""Collectors: keep the best scores, or count ranks, while the scores of a pool stream by."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ranking.places import Places

_CELL = 32  # scores in a cell; first only the maximum of a cell is compared
_MANY = 32  # with this many candidates of a query, sorting all scores is faster than comparing with each candidate


class Best:
    """The k highest scores of each query so far.

    Nearly all scores are below the k-th best so far. So only the maxima of cells of 32 scores are compared with it. The
    scores of the few cells above it are buffered until there are enough to sort.

    Args:
        num_queries: Number of queries.
        k: Number of scores to keep for each query; 0 keeps none.
        device: The device of the scores.
    """

    def __init__(self, num_queries: int, k: int, device: torch.device) -> None:
        self.k = k
        self.scores = torch.full((num_queries, k), -torch.inf, device=device)
        self.rows = torch.full((num_queries, k), -1, device=device)
        self._bound = torch.full((num_queries,), -torch.inf, device=device)
        self._highest = self._bound.clone()
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, chunk: slice, first: int, scores: Float[Tensor, "q n"]) -> None:
        """Add scores of a chunk of queries for the rows from `first` on."""
        if not self.k:
            return
        missing = -scores.shape[1] % _CELL
        scores = F.pad(scores, (0, missing), value=-torch.inf) if missing else scores
        cells = scores.view(len(scores), _CELL, -1)
        maxima, bound = cells.amax(dim=1), self._bound[chunk]
        self._highest[chunk] = torch.maximum(self._highest[chunk], maxima.amax(dim=1))
        query, cell = (maxima > bound.unsqueeze(1)).nonzero(as_tuple=True)
        many = 1 / 8 if self.k <= maxima.shape[1] else 0.98  # raising the bound by all scores takes longer
        if len(query) > many * maxima.numel():
            bound.copy_(torch.maximum(bound, self._just_below(maxima, scores)))
            query, cell = (maxima > bound.unsqueeze(1)).nonzero(as_tuple=True)
        values = cells[query, :, cell]
        found, place = (values > bound[query].unsqueeze(1)).nonzero(as_tuple=True)
        if len(found):
            rows = first + place * cells.shape[2] + cell[found]
            self._waiting.append((query[found] + chunk.start, rows, values[found, place]))
            if sum(len(query) for query, _, _ in self._waiting) >= self.scores.numel():
                self._merge()

    def share(self) -> None:
        """Merge the results of all processes."""
        if not self.k:
            return
        self._merge()
        parts = []
        for own in (self.rows, self.scores):
            everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
            dist.all_gather(everyone, own)
            parts.append(torch.cat(everyone, dim=1))
        query, place = (parts[0] >= 0).nonzero(as_tuple=True)
        self.rows.fill_(-1)
        self._waiting.append((query, *(part[query, place] for part in parts)))
        dist.all_reduce(broken := self._highest.isnan().int(), dist.ReduceOp.MAX)
        self._highest[broken > 0] = torch.nan

    def found(self) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
        """Scores and rows, best first; of equal scores, the lower row comes first.

        Raises:
            ValueError: If a score was nan.
        """
        _refuse_nan(self._highest, torch.arange(len(self._highest)))
        self._merge()
        return self.scores, self.rows

    def _just_below(self, maxima: Float[Tensor, "q c"], scores: Float[Tensor, "q n"]) -> Float[Tensor, " q"]:
        """The largest float32 below the k-th best value of cells or scores, so at least k scores exceed it."""
        values = maxima if self.k <= maxima.shape[1] else scores
        if self.k > values.shape[1]:
            return torch.full_like(values[:, 0], -torch.inf)
        lowest = values.topk(self.k, dim=1).values[:, -1]
        return lowest.nextafter(torch.full_like(lowest, -torch.inf))

    def _merge(self) -> None:
        """Merge the buffered scores into the best so far."""
        if not self._waiting:
            return
        query, place = (self.rows >= 0).nonzero(as_tuple=True)
        so_far = (query, self.rows[query, place], self.scores[query, place])
        query, rows, scores = (torch.cat(parts) for parts in zip(so_far, *self._waiting, strict=True))
        self._waiting = []
        order = rows.argsort()
        order = order[_falling_within(query, scores)[order].argsort(stable=True)]
        query, rows, scores = query[order], rows[order], scores[order]
        counts = query.bincount(minlength=len(self.scores))
        place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
        kept = place < self.k
        at = query[kept], place[kept]
        self.rows.fill_(-1)
        self.scores.fill_(-torch.inf)
        self.rows[at], self.scores[at] = rows[kept], scores[kept]
        self._bound = torch.maximum(self._bound, self.scores[:, -1])


class Ranks:
    """For pairs of a query and a candidate, how many other candidates score higher and how many score the same.

    It keeps two sums over the signs of score differences: the number of higher minus lower candidates, and the number
    of candidates that are not tied.

    Args:
        query: The query of each pair.
        rows: The candidate of each pair, as a row of the pool.
        device: The device of the scores.
    """

    def __init__(self, query: Int[Tensor, " R"], rows: Int[Tensor, " R"], device: torch.device) -> None:
        self.query, self._order = query.cpu().sort(stable=True)
        self.rows = rows.cpu()[self._order]
        self.scores = torch.zeros(len(query), device=device)
        self.counts = torch.zeros(2, len(query), dtype=torch.float64, device=device)
        self._views: dict[int, _View] = {}

    def pairs(self, chunk: slice, start: int, stop: int) -> Int[Tensor, " r"]:
        """The pairs with a query of this chunk and a candidate from `start` up to, not including, `stop`."""
        first, last = torch.searchsorted(self.query, torch.tensor([chunk.start, chunk.stop])).tolist()
        rows = self.rows[first:last]
        return first + ((rows >= start) & (rows < stop)).nonzero()[:, 0]

    def add(self, chunk: slice, first: int, scores: Float[Tensor, "q n"]) -> None:
        """Compare scores of a chunk of queries, for the rows from `first` on, with those of the candidates to rank."""
        if chunk.start not in self._views:
            self._views[chunk.start] = _View(self, chunk)
        view = self._views[chunk.start]
        outnumber, apart = self.counts
        if len(view.layers) > _MANY:
            self._add_sorted(view, scores)
        for pairs, query in view.layers if len(view.layers) <= _MANY else ():
            above = (scores if query is None else scores[query]) - self.scores[pairs].unsqueeze(1)
            broken = above.amax(dim=1).isnan()  # the sign of nan is 0
            outnumber[pairs] += above.sign_().sum(dim=1).masked_fill_(broken, torch.nan)
            apart[pairs] += above.abs_().sum(dim=1)
        pairs, query, row = view.inside(first, first + scores.shape[1])
        if len(pairs):  # undo the comparison of each candidate with itself, which rounding could make higher or lower
            itself = (scores[query, row - first] - self.scores[pairs]).sign()
            outnumber[pairs] -= itself
            apart[pairs] -= itself.abs()

    def _add_sorted(self, view: "_View", scores: Float[Tensor, "q n"]) -> None:
        """The sums of `add` from sorted scores; the time does not depend on the number of candidates to rank."""
        rising = scores.sort(dim=1).values
        own = self.scores[view.pairs]
        padded = scores.new_zeros(len(scores), len(view.layers))
        padded[view.query, view.nth] = own
        lower = torch.searchsorted(rising, padded)[view.query, view.nth]
        not_higher = torch.searchsorted(rising, padded, right=True)[view.query, view.nth]
        broken = rising[:, -1].isnan()[view.query] | own.isnan()  # nan comes last
        higher = scores.shape[1] - not_higher
        self.counts[0, view.pairs] += (higher - lower).double().masked_fill_(broken, torch.nan)
        self.counts[1, view.pairs] += (higher + lower).double()

    def found(self, num_candidates: int) -> Places:
        """The places of the candidates, in the order of the pairs.

        Raises:
            ValueError: If a score was nan.
        """
        outnumber, apart = self.counts
        _refuse_nan(outnumber, self.query)
        given = torch.empty_like(self._order).index_copy_(0, self._order, torch.arange(len(self._order)))
        given = given.to(apart.device)
        return Places((apart + outnumber)[given] / 2, num_candidates - 1 - apart[given])


class _View:
    """The pairs of one chunk of queries in two orders: in layers with each query at most once, and by row."""

    def __init__(self, ranks: Ranks, chunk: slice) -> None:
        device = ranks.counts.device
        pairs = ranks.pairs(chunk, 0, int(ranks.rows.max()) + 1 if len(ranks.rows) else 0)
        query = ranks.query[pairs] - chunk.start
        counts = query.bincount()
        nth = torch.arange(len(query)) - (counts.cumsum(0) - counts)[query]
        self.pairs, self.query, self.nth = (each.to(device) for each in (pairs, query, nth))
        self.layers: list[tuple[Tensor, Tensor | None]] = []
        for layer in range(int(counts.max()) if len(counts) else 0):
            of_layer = query[nth == layer]
            whole = len(of_layer) == chunk.stop - chunk.start
            self.layers.append((pairs[nth == layer].to(device), None if whole else of_layer.to(device)))
        self._row, order = ranks.rows[pairs].sort()
        self._by_row = tuple(part[order].to(device) for part in (pairs, query, ranks.rows[pairs]))

    def inside(self, first: int, stop: int) -> tuple[Int[Tensor, " r"], Int[Tensor, " r"], Int[Tensor, " r"]]:
        """The pairs whose candidates are rows from `start` to before `stop`, with their queries and rows."""
        start, stop = torch.searchsorted(self._row, torch.tensor([first, stop])).tolist()
        pairs, query, row = (part[start:stop] for part in self._by_row)
        return pairs, query, row


def _falling_within(query: Int[Tensor, " n"], scores: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Integers that sort by query first, then by score, highest first."""
    bits = (scores + 0.0).view(torch.int32).long()  # -0.0 becomes 0.0
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (query << 33) - rising


def _refuse_nan(values: Float[Tensor, " n"], query: Int[Tensor, " n"]) -> None:
    broken = values.isnan().cpu()
    if broken.any():
        some = ", ".join(map(str, query[broken].unique()[:5].tolist()))
        raise ValueError(f"scores of queries {some} are nan, so they have no order: check all vectors for nan")
