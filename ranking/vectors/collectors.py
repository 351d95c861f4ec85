"""Collectors: what is kept of the scores of a pool while they stream by."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ranking.places import Places

_CELL = 32  # scores of which only the maximum is looked at first
_MANY = 32  # from so many candidates of a query on, sorting all scores is faster than comparing with each


class Best:
    """The k highest scores of each query so far.

    Nearly all scores are below the k-th best so far. So only the maxima of cells of 32 scores are compared with it,
    and what the few cells above it hold waits until there is enough to sort.

    Args:
        num_queries: How many queries.
        k: How many scores to keep of each; 0 keeps nothing.
        device: Where the scores are.
    """

    def __init__(self, num_queries: int, k: int, device: torch.device) -> None:
        self.k = k
        self.scores = torch.full((num_queries, k), -torch.inf, device=device)
        self.rows = torch.full((num_queries, k), -1, device=device)
        self._bound = torch.full((num_queries,), -torch.inf, device=device)
        self._highest = self._bound.clone()
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, chunk: slice, first: int, scores: Float[Tensor, "q n"]) -> None:
        """Take note of the scores of some queries for the rows from `first` on."""
        if not self.k:
            return
        missing = -scores.shape[1] % _CELL
        scores = F.pad(scores, (0, missing), value=-torch.inf) if missing else scores
        cells = scores.view(len(scores), _CELL, -1)
        maxima, bound = cells.amax(dim=1), self._bound[chunk]
        self._highest[chunk] = torch.maximum(self._highest[chunk], maxima.amax(dim=1))
        query, cell = (maxima > bound.unsqueeze(1)).nonzero(as_tuple=True)
        many = 1 / 8 if self.k <= maxima.shape[1] else 0.98  # the second way to raise the bound takes longer
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
        """Merge what all processes found."""
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
        """Scores and rows, best first; of equal scores the first row leads.

        Raises:
            ValueError: If a score was nan.
        """
        _refuse_nan(self._highest, torch.arange(len(self._highest)))
        self._merge()
        return self.scores, self.rows

    def _just_below(self, maxima: Float[Tensor, "q c"], scores: Float[Tensor, "q n"]) -> Float[Tensor, " q"]:
        """A bound that at least k of these scores are above: k cells, or k scores, reach its upper neighbour."""
        values = maxima if self.k <= maxima.shape[1] else scores
        if self.k > values.shape[1]:
            return torch.full_like(values[:, 0], -torch.inf)
        lowest = values.topk(self.k, dim=1).values[:, -1]
        return lowest.nextafter(torch.full_like(lowest, -torch.inf))

    def _merge(self) -> None:
        """Sort what waits in among the best so far."""
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
    """For pairs of a query and a candidate, how many other candidates score higher and how many the same.

    What is counted is by how many the higher ones outnumber the lower ones, and how many are not tied: two sums over
    the signs of the differences.

    Args:
        query: Of each pair.
        rows: The candidates.
        device: Where the scores are.
    """

    def __init__(self, query: Int[Tensor, " R"], rows: Int[Tensor, " R"], device: torch.device) -> None:
        self.query, self._order = query.cpu().sort(stable=True)
        self.rows = rows.cpu()[self._order]
        self.scores = torch.zeros(len(query), device=device)
        self.counts = torch.zeros(2, len(query), dtype=torch.float64, device=device)
        self._views: dict[int, _View] = {}

    def pairs(self, chunk: slice, start: int, stop: int) -> Int[Tensor, " r"]:
        """Which pairs have a query of a chunk, and a candidate from `start` to before `stop`."""
        first, last = torch.searchsorted(self.query, torch.tensor([chunk.start, chunk.stop])).tolist()
        rows = self.rows[first:last]
        return first + ((rows >= start) & (rows < stop)).nonzero()[:, 0]

    def add(self, chunk: slice, first: int, scores: Float[Tensor, "q n"]) -> None:
        """Compare the scores of some queries for the rows from `first` on with those of the candidates to rank."""
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
        if len(pairs):  # no candidate is compared with itself, which rounding could make higher or lower
            itself = (scores[query, row - first] - self.scores[pairs]).sign()
            outnumber[pairs] -= itself
            apart[pairs] -= itself.abs()

    def _add_sorted(self, view: "_View", scores: Float[Tensor, "q n"]) -> None:
        """The same sums, from the scores in order: that takes as long for any number of candidates to rank."""
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
        """Where the candidates stand, in the order in which the pairs were given.

        Raises:
            ValueError: If a score was nan.
        """
        outnumber, apart = self.counts
        _refuse_nan(outnumber, self.query)
        given = torch.empty_like(self._order).index_copy_(0, self._order, torch.arange(len(self._order)))
        given = given.to(apart.device)
        return Places((apart + outnumber)[given] / 2, num_candidates - 1 - apart[given])


class _View:
    """The pairs of one chunk of queries: once in layers that hold each query once at most, once by row."""

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
        """Pairs whose candidates are among some rows, their queries and these rows."""
        start, stop = torch.searchsorted(self._row, torch.tensor([first, stop])).tolist()
        pairs, query, row = (part[start:stop] for part in self._by_row)
        return pairs, query, row


def _falling_within(query: Int[Tensor, " n"], scores: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Numbers that sort by query, and the scores of a query from the highest to the lowest."""
    bits = (scores + 0.0).view(torch.int32).long()  # -0.0 becomes 0.0
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (query << 33) - rising


def _refuse_nan(values: Float[Tensor, " n"], query: Int[Tensor, " n"]) -> None:
    broken = values.isnan().cpu()
    if broken.any():
        some = ", ".join(map(str, query[broken].unique()[:5].tolist()))
        raise ValueError(f"scores of queries {some} are nan, so they have no order: their vectors or the pool's are")
