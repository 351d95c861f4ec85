"""ScoreJudging: scores every candidate of the pool for each query, a few queries at a time."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from rankers.judging.pool import PoolJudging
from ranking.evaluation import gathered, joined
from ranking.places import Places
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_evaluation import Qrels, ragged
from ranking.vectors.collectors import Best, Ranks

_SCORES = 2**25  # the most scores in memory at once
_BLOCK = 2**18  # candidates compared at once


class ScoreJudging(PoolJudging):
    """Calls the ranker's `forward(batch)`, which returns the scores of all N candidates of the pool, `[B, N]`.

    The queries scored at once are limited by memory. Only the places and the best candidates are kept.

    Args:
        ranker: The ranker to judge.
        references: The rankers without weights that it is compared with, by name.
    """

    def __init__(self, ranker: Any, references: Mapping[str, Any]) -> None:
        super().__init__(ranker, references)
        self._state = _PlacesState()

    def collect(self, batch: PoolBatch) -> None:
        """Rank all candidates for one batch of queries."""
        num_candidates = self.data.pool.num_candidates
        size = max(1, _SCORES // num_candidates)
        for part in torch.arange(len(batch.group), device=batch.group.device).split(size):
            self._collect(batch.only(part), num_candidates)

    def collected(self) -> Int[Tensor, " Q"]:
        """The queries that were collected."""
        self._found = self._state.compute()
        self._state.reset()
        return self._found.queries

    def places(self, qrels: Qrels) -> dict[str, Places]:
        """The places of the judged candidates."""
        found = Places.nowhere(*qrels.mask.shape)
        for target, values in zip(found, self._found.places, strict=True):
            target[qrels.mask] = values
        return {self.ranker.name: found}

    def best(self, k: int) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
        """The candidates with the highest scores."""
        return self._found.scores[:, :k], self._found.rows[:, :k]

    def _collect(self, batch: PoolBatch, num_candidates: int) -> None:
        queries = batch.group.cpu()
        scores, there = self.scores(batch, num_candidates)
        there &= self._allowed(queries, num_candidates)
        if bool(scores[there].isnan().any()):
            raise ValueError(f"the ranker scored candidates for queries {queries.tolist()} as nan")
        qrels = Qrels.of(self.data.pool, queries)
        largest = torch.finfo(torch.float32).max
        scores = torch.where(there, scores.clamp(-largest, largest), -torch.inf)
        query, rows = qrels.mask.nonzero(as_tuple=True)[0], qrels.rows[qrels.mask]
        asked = scores[query, rows]
        in_order = asked > -torch.inf
        # One column, because older versions of torch cannot gather tensors without columns.
        best = Best(len(scores), min(self._depth, num_candidates) if self.keeps_best else 1, scores.device)
        ranks = Ranks(query[in_order], rows[in_order], scores.device)
        ranks.scores.copy_(asked[in_order])
        every = slice(0, len(scores))
        for first in range(0, num_candidates if len(scores) else 0, _BLOCK):
            part = scores[:, first : first + _BLOCK]
            best.add(every, first, part)
            ranks.add(every, first, part)
        found = ranks.found(num_candidates)
        judged = Places(torch.full(asked.shape, torch.inf).double(), torch.zeros_like(asked).double())
        judged.above[in_order], judged.tied[in_order] = found
        self._state.update(queries, qrels.mask.sum(dim=1), judged, *best.found())

    def scores(self, batch: PoolBatch, num_candidates: int) -> tuple[Float[Tensor, "B N"], Bool[Tensor, "B N"]]:
        """The score of every candidate of the pool, and which candidates have a score.

        Raises:
            ValueError: If the ranker does not score all candidates.
        """
        scores = self.ranker(batch).float().cpu()
        if scores.shape != (len(batch.group), num_candidates):
            expected = f"[{len(batch.group)}, {num_candidates}], one score for each candidate of the pool"
            raise ValueError(f"{self.ranker.name} gave scores of shape {list(scores.shape)}, not {expected}")
        return scores, torch.ones_like(scores, dtype=torch.bool)

    def _allowed(self, queries: Int[Tensor, " B"], num_candidates: int) -> Bool[Tensor, "B N"]:
        """The candidates that each query ranks."""
        own, removed = self.data.restrictions(queries)
        there = torch.full((len(queries), num_candidates), own is None)
        if own is not None:
            of, place = (own >= 0).nonzero(as_tuple=True)
            there[of, own[of, place]] = True
        if removed is not None:
            there[removed[:, 0], removed[:, 1]] = False
        return there


class _Ranked:
    """Q queries with the places of their judged candidates, one after the other, and their best candidates.

    A plain class: of tuples, torchmetrics would make numbers of tensors with one element.
    """

    def __init__(
        self, queries: Int[Tensor, " Q"], places: Places, scores: Float[Tensor, "Q k"], rows: Int[Tensor, "Q k"]
    ) -> None:
        self.queries, self.places, self.scores, self.rows = queries, places, scores, rows


class _PlacesState(Metric):
    """Collects places and best candidates over all processes."""

    full_state_update = False
    queries: list[Tensor]
    counts: list[Tensor]
    above: list[Tensor]
    tied: list[Tensor]
    scores: list[Tensor]
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__(compute_on_cpu=True, dist_sync_fn=gathered)
        for name in ("queries", "counts", "above", "tied", "scores", "rows"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        queries: Int[Tensor, " B"],
        counts: Int[Tensor, " B"],
        judged: Places,
        scores: Float[Tensor, "B k"],
        rows: Int[Tensor, "B k"],
    ) -> None:
        """Add a batch of queries with the places of their judged candidates."""
        self.queries.append(queries)
        self.counts.append(counts)
        self.above.append(judged.above)
        self.tied.append(judged.tied)
        self.scores.append(scores)
        self.rows.append(rows)

    def compute(self) -> _Ranked:
        """Everything collected, each query once, ascending."""
        queries, counts = joined(self.queries).long(), joined(self.counts).long()
        order = queries.argsort(stable=True)
        first = torch.ones(len(order), dtype=torch.bool)
        first[1:] = queries[order][1:] != queries[order][:-1]
        order = order[first]
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        places = Places(*(ragged(offsets, joined(each), order)[1] for each in (self.above, self.tied)))
        return _Ranked(queries[order], places, joined(self.scores)[order], joined(self.rows)[order].long())
