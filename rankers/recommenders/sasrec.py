"""SASRec: self-attention over a user's items predicts the next one (Kang and McAuley 2018)."""

from typing import Annotated, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rankers.recommenders.recommender import Learning, Negatives, Positions, Recommender, last_items, last_states
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Reading, Sequences
from registry import OPTIMIZERS, RANKERS, Node
from registry.ranges import Dropout, Few, Rows, Width


@RANKERS.register("sasrec")
class SASRec(Recommender):
    """SASRec: score(history, i) = <state after the last item, embedding of i>.

    "Self-Attentive Sequential Recommendation", section III. Items have embeddings times sqrt(dim) plus learned ones of
    their positions, counted from the end. In each block, attention and a feed-forward layer read a normalised input.

    Args:
        num_items: Number of items in the pool.
        dim: Size of the embeddings.
        num_blocks: Number of blocks.
        num_heads: Number of attention heads.
        dropout: Dropout of embeddings, attention weights and feed-forward layers.
        max_length: The most items that are read, the latest ones; longer training sequences are cut into pieces.

    Note:
        The paper's loss is `loss: bce, num_negatives: 1`. The default is the cross-entropy over all items, which ranks
        better: Klenitskiy and Vasilev 2023 (arXiv 2309.07602).
    """

    def __init__(
        self,
        num_items: Rows,
        dim: Width = 64,
        num_blocks: Few = 2,
        num_heads: Few = 1,
        dropout: Dropout = 0.5,
        max_length: Few = 50,
        num_negatives: Negatives | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = {  # noqa: B006
            "name": "adamw",
            "lr": 1e-3,
            "betas": [0.9, 0.98],
            "weight_decay": 0.0,
        },
        **training: Unpack[Learning],
    ) -> None:
        super().__init__(num_items, num_negatives=num_negatives, optimizer=optimizer, **training)
        if dim % num_heads:
            raise ValueError(f"num_heads: {num_heads} heads cannot share a dim of {dim} evenly")
        self.dim, self.max_length = dim, max_length
        self.items, self.places = nn.Embedding(num_items, dim), nn.Embedding(max_length, dim)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=dim**-0.5)
        self.drop, self.norm = nn.Dropout(dropout), nn.LayerNorm(dim, eps=1e-8)
        self.blocks = nn.ModuleList(_Block(dim, num_heads, dropout) for _ in range(num_blocks))

    def reading(self) -> Reading:
        """Read histories; learn from users' sequences."""
        return Reading(histories=True, longest_history=self.max_length, sequences=Sequences(self.max_length))

    def item_table(self) -> Float[Tensor, "N E"]:
        """The embeddings of the items."""
        return self.items.weight

    def user_states(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        """The state after the last item."""
        assert batch.history is not None
        history = last_items(batch.history, self.max_length)
        return last_states(self.states(history), history)

    def positions(self, batch: PoolBatch) -> Positions:
        """Every item of a sequence but the first is predicted from those before it."""
        assert batch.history is not None
        read, targets = batch.history[:, :-1], batch.history[:, 1:]
        read = read.masked_fill(targets < 0, -1)
        return Positions(self.states(read), targets.clamp(min=0), targets >= 0)

    def states(self, history: Int[Tensor, "B H"]) -> Float[Tensor, "B H E"]:
        """The state after each item."""
        there = history >= 0
        # As with padding on the left, the last item always has the last position.
        place = self.max_length - there.sum(dim=1, keepdim=True) + torch.arange(history.shape[1], device=history.device)
        embedded = self.items(history.clamp(min=0)) * self.dim**0.5 + self.places(place.clamp(max=self.max_length - 1))
        states = self.drop(embedded)
        for block in self.blocks:
            states = block(states)
        return self.norm(states)


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.before, self.between = nn.LayerNorm(dim, eps=1e-8), nn.LayerNorm(dim, eps=1e-8)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.wide, self.narrow, self.drop = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Dropout(dropout)

    def forward(self, states: Float[Tensor, "B H E"]) -> Float[Tensor, "B H E"]:
        """Attend to the items up to each position, then a feed-forward layer; padding on the right is never seen."""
        asked = self.before(states)
        query, key, value = (
            each.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for each in (self.query(asked), *self.key_value(states).chunk(2, dim=2))
        )
        found = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        attended = self.between(asked + found.transpose(1, 2).flatten(2))
        inner = self.drop(self.wide(attended).relu())
        return attended + self.drop(self.narrow(inner))
