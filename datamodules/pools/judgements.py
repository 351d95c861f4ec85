"""Judgements: which candidates of a pool are right for a query, and which must not be negatives."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranking.pools.pool_evaluation import ragged
from ranking.stores.candidate_pool import CandidatePool

_ROW_BITS = 40


@dataclass(frozen=True)
class Judgements:
    """The judged candidates of the queries of a pool.

    Args:
        pool: The pool of queries and candidates.
        exclude_history: A query does not rank the candidates in its history, unless they were judged above 0.
    """

    pool: CandidatePool
    exclude_history: bool

    @cached_property
    def num_relevant(self) -> Int[Tensor, " Q"]:
        """How many right candidates each query has."""
        return self._right[0].diff()

    def relevant(self, index: Int[Tensor, " B"]) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"], Float[Tensor, " R"]]:
        """The right candidates of some queries: place in `index`, row and label."""
        offsets, rows, labels = self._right
        of, rows, _ = ragged(offsets, rows, index)
        return of, rows.long(), ragged(offsets, labels, index)[1].float()

    def drawn(self, index: Int[Tensor, " B"], chance: Float[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        """Row and label of one right candidate per query, chosen by `chance` in [0, 1); each query must have one."""
        offsets, rows, labels = self._right
        place = (chance.double() * self.num_relevant[index]).long()
        at = offsets[index] + place.clamp(max=self.num_relevant[index] - 1)
        return rows[at].long(), labels[at].float()

    def removed(self, index: Int[Tensor, " B"]) -> Int[Tensor, "R 2"] | None:
        """Pairs (place in `index`, row) that are not candidates; None if history is not excluded."""
        if not self.exclude_history:
            return None
        history = _pairs(*ragged(self.pool.queries.history_offsets, self.pool.queries.history, index)[:2]).unique()
        judged = _pairs(*ragged(self.pool.queries.relevant_offsets, self.pool.queries.relevant, index)[:2])
        left = history[~torch.isin(history, judged)]
        return torch.stack([left >> _ROW_BITS, left & ((1 << _ROW_BITS) - 1)], dim=1)

    def not_wrong(self, index: Int[Tensor, " B"]) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"]]:
        """Pairs (place in `index`, row) that must not be negatives: right candidates and removed ones."""
        of, rows, _ = self.relevant(index)
        removed = self.removed(index)
        if removed is None:
            return of, rows
        return torch.cat([of, removed[:, 0]]), torch.cat([rows, removed[:, 1]])

    def own(self, index: Int[Tensor, " B"]) -> Int[Tensor, "B L"]:
        """Each query's own candidates; -1 for padding and for excluded candidates."""
        of, rows, within = ragged(self.pool.queries.own_offsets, self.pool.queries.own, index)
        own = torch.full((len(index), int(within.max()) + 1 if len(within) else 1), -1)
        own[of, within] = rows.long()
        if (removed := self.removed(index)) is not None:
            of, rows = removed.unbind(dim=1)
            pair, place = (own[of] == rows.unsqueeze(1)).nonzero(as_tuple=True)
            own[of[pair], place] = -1
        return own

    @cached_property
    def _right(self) -> tuple[Int[Tensor, " starts"], Int[Tensor, " R"], Float[Tensor, " R"]]:
        """Offsets, rows and labels of each query's right candidates: those with at least the pool's `min_label`."""
        queries = self.pool.queries
        enough = queries.label >= self.pool.min_label
        offsets = torch.nn.functional.pad(enough.cumsum(0), (1, 0))[queries.relevant_offsets]
        return offsets, queries.relevant[enough], queries.label[enough]


def _pairs(of: Int[Tensor, " R"], rows: Int[Tensor, " R"]) -> Int[Tensor, " R"]:
    """Encode each pair as one number."""
    return (of << _ROW_BITS) | rows.long()
