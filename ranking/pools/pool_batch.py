"""PoolBatch: queries against candidates of a shared pool, and the contexts in which they are read."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ranking.batch import Batch


class Contexts(NamedTuple):
    """What is known of sets of candidates: K centroids each, largest cluster first.

    Args:
        centroids: Of each set; zero where there is none.
        mask: True where a centroid exists; sets smaller than K have fewer.
    """

    centroids: Float[Tensor, "*sets K D"]
    mask: Bool[Tensor, "*sets K"]


@dataclass
class PoolBatch(Batch):
    """B queries, as token ids or as histories, scored against a table of K candidates that they share.

    `slot` holds rows of the pool, -1 where the mask is False.

    Args:
        rows: Row in the pool of each candidate of the table.
        candidates: Their cached vectors, as stored.
        tokens: Of each query's own text, without template, filled up with 0 on the right; no columns for a ranker
            that does not read texts.
        lengths: How many tokens each query has.
        partition: Which prepared context each query is read in; -1 for that of the whole pool.
        candidate_tokens: Of the candidates' texts, where they are encoded anew.
        candidate_lengths: How many tokens each candidate has.
        own: Rows of each query's own candidate list, -1 where there is none; None where queries rank the whole pool.
        removed: Pairs (query of the batch, row of the pool): no candidates for that query, such as its history.
        history: Rows of what each query's user has seen, oldest first, filled up with -1 on the right; None for a
            ranker that does not read histories. In training on sequences, the last one is to be predicted, too.
        user: A number for each query's user, equal in queries of the same user.
    """

    rows: Int[Tensor, " K"]
    candidates: Float[Tensor, "K D"]
    tokens: Int[Tensor, "B T"]
    lengths: Int[Tensor, " B"]
    partition: Int[Tensor, " B"]
    candidate_tokens: Int[Tensor, "K U"] | None = None
    candidate_lengths: Int[Tensor, " K"] | None = None
    own: Int[Tensor, "B L"] | None = None
    removed: Int[Tensor, "R 2"] | None = None
    history: Int[Tensor, "B H"] | None = None
    user: Int[Tensor, " B"] | None = None

    @classmethod
    def of_histories(cls, history: Int[Tensor, "B H"], user: Int[Tensor, " B"] | None = None) -> "PoolBatch":
        """Queries of users with these histories, without labels, for the whole pool.

        Args:
            history: Rows of what each user has seen, oldest first, filled up with -1 on the right.
            user: The users' numbers; None for users that no training query is of.

        >>> PoolBatch.of_histories(torch.tensor([[4, 2], [3, -1]])).user
        tensor([-1, -1])
        """
        count, none = len(history), torch.empty(0, dtype=torch.int64)
        return cls(
            labels=torch.empty(count, 0),
            mask=torch.empty(count, 0, dtype=torch.bool),
            group=torch.arange(count),
            slot=torch.empty(count, 0, dtype=torch.int64),
            rows=none,
            candidates=torch.empty(0, 0),
            tokens=torch.empty(count, 0, dtype=torch.int64),
            lengths=torch.zeros(count, dtype=torch.int64),
            partition=torch.full((count,), -1),
            history=history,
            user=torch.full((count,), -1) if user is None else user,
        )

    def only(self, index: Int[Tensor, " b"]) -> "PoolBatch":
        """The same batch with some of its queries."""
        pairs = self.removed
        if pairs is not None:
            place = torch.full((len(self.group),), -1, device=pairs.device)
            place[index] = torch.arange(len(index), device=pairs.device)
            pairs = torch.stack([place[pairs[:, 0]], pairs[:, 1]], dim=1)
            pairs = pairs[pairs[:, 0] >= 0]
        rowwise = ("labels", "mask", "group", "slot", "tokens", "lengths", "partition", "own", "history", "user")
        chosen = {name: getattr(self, name)[index] for name in rowwise if getattr(self, name) is not None}
        return dataclasses.replace(self, **chosen, removed=pairs)
