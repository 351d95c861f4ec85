"""FM: a factorisation machine over user, last items and candidate (Rendle 2010)."""

from typing import Annotated, Any, ClassVar, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rankers.recommenders.recommender import Learning, Negatives, Positions, Recommender
from rankers.recommenders.user_vectors import UserVectors
from ranking.pools.pool_batch import PoolBatch
from registry import OPTIMIZERS, RANKERS, Node
from registry.ranges import Few, Rows, Width


@RANKERS.register("fm")
class FM(Recommender):
    """score(x) = sum of the fields' weights + sum over pairs of fields of <v_a, v_b>, "Factorization Machines", eq. 1.

    The fields are the user, the last items (each with weight 1 / their number) and the candidate. What does not depend
    on the candidate c does not change the order, so that score(c) = w_c + <v_c, v_user + mean of the last items' v>.
    Each item of a sequence is predicted from the items before it.

    Args:
        num_items: Number of items in the pool.
        num_users: Number of users to learn from.
        dim: Size of the vectors.
        num_last: How many of the latest items are read.
        loss: What training minimises; null for `bce`.

    Note:
        The papers that use it as a rival do not say their fields; these are ours. The item as something that was seen
        and as a candidate has two vectors, because these are two fields.
    """

    default_loss: ClassVar[Node] = "bce"

    def __init__(
        self,
        num_items: Rows,
        num_users: Rows,
        dim: Width = 64,
        num_last: Few = 5,
        num_negatives: Negatives = 4,
        optimizer: Annotated[Node, OPTIMIZERS] = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-2},  # noqa: B006
        **training: Unpack[Learning],
    ) -> None:
        super().__init__(num_items, num_negatives=num_negatives, optimizer=optimizer, **training)
        self.num_last = num_last
        self.items, self.bias = nn.Embedding(num_items, dim), nn.Parameter(torch.zeros(num_items))
        self.seen, self.users = nn.Embedding(num_items, dim), UserVectors(num_users, dim)
        for table in (self.items, self.seen):
            nn.init.normal_(table.weight, std=0.1)

    def learn_from(self, data: Any) -> None:
        """Take the numbers of the users."""
        self.users.numbers.copy_(data.users)

    def item_table(self) -> Float[Tensor, "N E"]:
        """The vectors of the items as candidates, and their weights as a last column."""
        return torch.cat([self.items.weight, self.bias.unsqueeze(1)], dim=1)

    def user_states(self, batch: PoolBatch) -> Float[Tensor, "B E"]:
        """The sum of the vectors of the user and of the last items, and a one for the weights of candidates."""
        assert batch.history is not None
        padded = nn.functional.pad(batch.history, (0, 1), value=-1)
        sizes = (batch.history >= 0).sum(dim=1)
        return self._states(batch, padded)[torch.arange(len(sizes)), sizes]

    def positions(self, batch: PoolBatch) -> Positions:
        """Every item of a sequence, from the items before it."""
        assert batch.history is not None
        return Positions(self._states(batch, batch.history), batch.history.clamp(min=0), batch.history >= 0)

    def _states(self, batch: PoolBatch, history: Int[Tensor, "B H"]) -> Float[Tensor, "B H E"]:
        """The state before each item."""
        assert batch.user is not None
        there = (history >= 0).unsqueeze(2)
        # Sums over the items before each place, less those too long ago.
        before = nn.functional.pad((self.seen(history.clamp(min=0)) * there).cumsum(dim=1), (0, 0, 1, 0))
        place = torch.arange(history.shape[1], device=history.device)
        first = (place - self.num_last).clamp(min=0)
        count = (place - first).clamp(min=1).view(1, -1, 1)
        mean = (before[:, place] - before[:, first]) / count
        return nn.functional.pad(self.users(batch.user).unsqueeze(1) + mean, (0, 1), value=1.0)
