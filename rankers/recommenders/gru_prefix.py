"""GRUPrefix: a GRU over a user's items predicts the next one; what many papers call GRU4Rec."""

from typing import Annotated, Unpack

from jaxtyping import Float, Int
from torch import Tensor, nn

from rankers.recommenders.recommender import Learning, Negatives, Positions, Recommender, last_items, last_states
from ranking.pools.pool_batch import PoolBatch
from ranking.pools.pool_data import Reading, Sequences
from registry import OPTIMIZERS, RANKERS, Node
from registry.ranges import Dropout, Few, Rows, Width


@RANKERS.register("gru_prefix")
class GRUPrefix(Recommender):
    """score(history, i) = <W h, embedding of i> with h the last state of a GRU over the history.

    "Improved Recurrent Neural Networks for Session-based Recommendations" (Tan et al. 2016), as in RecBole. Every
    prefix of a sequence predicts the item after it; because a GRU reads from left to right, one pass computes all of
    them. Unlike in `gru4rec`, gradients flow back through the whole prefix.

    Args:
        num_items: Number of items in the pool.
        dim: Size of the embeddings.
        hidden_dim: Size of the GRU's state.
        num_layers: Number of layers of the GRU.
        dropout: Dropout of the embeddings.
        max_length: The most items that are read, the latest ones; longer training sequences are cut into pieces.
    """

    def __init__(
        self,
        num_items: Rows,
        dim: Width = 64,
        hidden_dim: Width = 128,
        num_layers: Few = 1,
        dropout: Dropout = 0.3,
        max_length: Few = 50,
        num_negatives: Negatives | None = None,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0},  # noqa: B006
        **training: Unpack[Learning],
    ) -> None:
        super().__init__(num_items, num_negatives=num_negatives, optimizer=optimizer, **training)
        self.max_length = max_length
        self.items, self.drop = nn.Embedding(num_items, dim), nn.Dropout(dropout)
        nn.init.xavier_normal_(self.items.weight)
        self.gru = nn.GRU(dim, hidden_dim, num_layers, batch_first=True, bias=False)
        for name, weight in self.gru.named_parameters():
            if name.startswith("weight"):
                nn.init.xavier_uniform_(weight)
        self.out = nn.Linear(hidden_dim, dim)

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
        targets = batch.history[:, 1:]
        return Positions(self.states(batch.history[:, :-1]), targets.clamp(min=0), targets >= 0)

    def states(self, history: Int[Tensor, "B H"]) -> Float[Tensor, "B H E"]:
        """The state after each item; padding on the right does not change the states before it."""
        return self.out(self.gru(self.drop(self.items(history.clamp(min=0))))[0])
