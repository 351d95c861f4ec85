"""BPR: matrix factorisation that ranks a user's items above others (Rendle et al. 2009)."""

from typing import Annotated, Any, ClassVar, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rankers.recommenders.recommender import Learning, Negatives, Positions, Recommender
from rankers.recommenders.user_vectors import UserVectors
from ranking.pools.pool_batch import PoolBatch
from registry import OPTIMIZERS, RANKERS, Node
from registry.ranges import Rows, Width


@RANKERS.register("bpr")
class BPR(Recommender):
    """score(u, i) = <vector of u, vector of i> + bias of i; the order of the history makes no difference.

    "BPR: Bayesian Personalized Ranking from Implicit Feedback". Each item of each user's sequence is compared with
    drawn ones once per epoch. A user without training queries has a vector of zeros, and is ranked for by the biases.

    Args:
        num_items: Number of items in the pool.
        num_users: Number of users to learn from.
        dim: Size of the vectors.
        loss: What training minimises; null for `pairwise_logistic`, which is the paper's.
    """

    default_loss: ClassVar[Node] = "pairwise_logistic"

    def __init__(
        self,
        num_items: Rows,
        num_users: Rows,
        dim: Width = 64,
        num_negatives: Negatives = 1,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-2},  # noqa: B006
        **training: Unpack[Learning],
    ) -> None:
        super().__init__(num_items, num_negatives=num_negatives, optimizer=optimizer, **training)
        self.items, self.bias = nn.Embedding(num_items, dim), nn.Parameter(torch.zeros(num_items))
        self.users = UserVectors(num_users, dim)
        nn.init.normal_(self.items.weight, std=0.1)

    def learn_from(self, data: Any) -> None:
        """Take the numbers of the users."""
        self.users.numbers.copy_(data.users)

    def item_table(self) -> Float[Tensor, "N E"]:
        """The vectors of the items, and their biases as a last column."""
        return torch.cat([self.items.weight, self.bias.unsqueeze(1)], dim=1)

    def user_states(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        """The vectors of the users, and a one for the biases."""
        assert batch.user is not None
        return nn.functional.pad(self.users(batch.user), (0, 1), value=1.0)

    def positions(self, batch: PoolBatch) -> Positions:
        """Every item of a user, from the same state."""
        assert batch.history is not None
        states = self.user_states(batch).unsqueeze(1).expand(-1, batch.history.shape[1], -1)
        return Positions(states, batch.history.clamp(min=0), batch.history >= 0)
