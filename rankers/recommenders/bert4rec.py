"""BERT4Rec: a bidirectional transformer fills in masked items of a sequence (Sun et al. 2019)."""

from typing import Annotated, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rankers.recommenders.recommender import Learning, Negatives, Positions, Recommender, last_items
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Reading, Sequences
from registry import OPTIMIZERS, RANKERS, Node
from registry.ranges import Dropout, Few, Probability, Rows, Width


@RANKERS.register("bert4rec")
class BERT4Rec(Recommender):
    """score(history, i) = <state at a mask token after the history, embedding of i> + bias of i.

    "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer". In training,
    items are masked at random, and the last item more often than others, as it is what is predicted later.

    Args:
        num_items: Number of items in the pool.
        dim: Size of the embeddings.
        num_layers: Number of layers.
        num_heads: Number of attention heads.
        hidden_dim: Width of the feed-forward layers.
        dropout: Dropout of embeddings and layers.
        max_length: The most tokens that are read, the latest items and the mask token, at least 2; longer training
            sequences are cut into pieces.
        mask: Share of items that are masked in training.
        only_last: Share of training sequences in which only the last item is masked.

    Note:
        It needs many more epochs than SASRec: up to 30 times as many (Petrov and Macdonald 2022, arXiv 2207.07483).
    """

    def __init__(
        self,
        num_items: Rows,
        dim: Width = 64,
        num_layers: Few = 2,
        num_heads: Few = 2,
        hidden_dim: Width = 256,
        dropout: Dropout = 0.2,
        max_length: Few = 50,
        mask: Probability = 0.2,
        only_last: Dropout = 0.1,
        num_negatives: Negatives | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0},  # noqa: B006
        **training: Unpack[Learning],
    ) -> None:
        super().__init__(num_items, num_negatives=num_negatives, optimizer=optimizer, **training)
        if dim % num_heads:
            raise ValueError(f"num_heads: {num_heads} heads cannot share a dim of {dim} evenly")
        if max_length < 2:
            raise ValueError("max_length: 1 leaves no place for an item beside the mask token; set 2 or more")
        self.max_length, self.mask, self.only_last = max_length, mask, only_last
        self.items, self.places = nn.Embedding(num_items, dim), nn.Embedding(max_length, dim)
        self.mask_token, self.bias = nn.Embedding(1, dim), nn.Parameter(torch.zeros(num_items))
        for table in (self.items, self.places, self.mask_token):
            nn.init.trunc_normal_(table.weight, std=0.02, a=-0.04, b=0.04)
        self.norm, self.drop = nn.LayerNorm(dim), nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(dim, num_heads, hidden_dim, dropout, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))

    def reading(self) -> Reading:
        """Read histories; learn from users' sequences."""
        longest = self.max_length - 1
        return Reading(histories=True, longest_history=longest, sequences=Sequences(longest))

    def item_table(self) -> Float[Tensor, "N E"]:
        """The embeddings of the items, and their biases as a last column."""
        return torch.cat([self.items.weight, self.bias.unsqueeze(1)], dim=1)

    def user_states(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        """The state at the mask token."""
        assert batch.history is not None
        history = last_items(batch.history, self.max_length - 1)
        sizes = (history >= 0).sum(dim=1)
        tokens = nn.functional.pad(history, (0, 1), value=-1)
        tokens[torch.arange(len(sizes)), sizes] = self.num_items
        return self.states(tokens)[torch.arange(len(sizes)), sizes]

    def positions(self, batch: PoolBatch) -> Positions:
        """The masked items of each sequence; at least one."""
        assert batch.history is not None
        items = batch.history
        there, last = items >= 0, (items >= 0).sum(dim=1) - 1
        chance = torch.rand(items.shape, device=items.device)
        hidden = (chance < self.mask) & there
        alone = torch.rand(len(items), device=items.device) < self.only_last
        is_last = torch.arange(items.shape[1], device=items.device) == last.unsqueeze(1)
        none = ~hidden.any(dim=1)
        hidden = torch.where((alone | none).unsqueeze(1), is_last, hidden)
        states = self.states(items.masked_fill(hidden, self.num_items))
        return Positions(states, items.clamp(min=0), hidden)

    def states(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T E"]:
        """The state at each token, and a one for the biases."""
        count = len(tokens)
        if not count:
            # The layers cannot read a batch without users, and with FSDP2 every process has to call them.
            tokens = tokens.new_full((1, tokens.shape[1]), self.num_items)
        there = tokens >= 0
        # The last token always has the last position.
        place = self.max_length - there.sum(dim=1, keepdim=True) + torch.arange(tokens.shape[1], device=tokens.device)
        masked = (tokens == self.num_items).unsqueeze(2)
        items = self.items(tokens.clamp(min=0, max=self.num_items - 1))
        items = torch.where(masked, self.mask_token(tokens.new_zeros(1)), items)
        embedded = items + self.places(place.clamp(max=self.max_length - 1))
        states = self.layers(self.drop(self.norm(embedded)), src_key_padding_mask=~there)
        return nn.functional.pad(self.out(states), (0, 1), value=1.0)[:count]
