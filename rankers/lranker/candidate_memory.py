"""CandidateMemory: vectors of candidates from earlier training steps, as further negatives."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import PoolData
from ranking.pools.pool_evaluation import ragged


class CandidateMemory:
    """The vectors that a model in training has given to candidates lately (cross-batch memory, Wang et al. 2020).

    They have no gradients and are as old as their steps, so that a step has many negatives and encodes few candidates.
    A candidate is there once, with its latest vector. A process remembers its own batches; a resumed run starts anew.

    Args:
        size: The most candidates to remember; the oldest are forgotten.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.forget()

    def forget(self) -> None:
        """Start anew."""
        self._rows: Int[Tensor, " M"] | None = None
        self._vectors: Float[Tensor, "M E"] | None = None

    def negatives(
        self, batch: PoolBatch, data: PoolData, vectors: Float[Tensor, "C E"]
    ) -> tuple[Float[Tensor, "M E"], Bool[Tensor, "B M"]]:
        """The candidates of earlier steps, and which are negatives of each query; then remember those of this step.

        Candidates of the batch are no negatives a second time. Judged candidates and those that a query does not rank
        are none either.

        Args:
            batch: The batch of a step.
            data: The pool and its queries.
            vectors: The vectors of the batch's candidates.
        """
        new, rows = vectors.detach(), batch.rows
        if self._rows is None or self._vectors is None:
            self._rows, self._vectors = rows[: self._size], new[: self._size]
            return new[:0], torch.empty(len(batch.group), 0, dtype=torch.bool, device=rows.device)
        others = ~torch.isin(self._rows, rows)
        older, remembered = self._rows[others], self._vectors[others]
        self._rows = torch.cat([rows, older])[: self._size]
        self._vectors = torch.cat([new, remembered])[: self._size]
        queries, known = batch.group.cpu(), data.pool.queries
        of, judged, _ = ragged(known.relevant_offsets, known.relevant, queries)
        pairs, (own, removed) = torch.stack([of, judged.long()], dim=1), data.restrictions(queries)
        pairs = (pairs if removed is None else torch.cat([pairs, removed])).to(rows.device)
        if own is None:
            allowed = torch.ones(len(queries), len(older), dtype=torch.bool, device=rows.device)
        else:
            allowed = torch.stack([torch.isin(older, listed) for listed in own.to(rows.device)])
        pair, place = (pairs[:, 1:] == older).nonzero(as_tuple=True)
        allowed[pairs[pair, 0], place] = False
        return remembered, allowed
