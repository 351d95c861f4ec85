"""UserVectors: a vector for each user to learn from."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class UserVectors(nn.Module):
    """A table of vectors that is looked up by users' numbers; zeros for users that are not in it.

    Args:
        num_users: Number of users.
        dim: Size of a vector.
    """

    numbers: Tensor
    """The users' numbers, ascending."""

    def __init__(self, num_users: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_users, dim)
        nn.init.normal_(self.table.weight, std=0.1)
        self.register_buffer("numbers", torch.zeros(num_users, dtype=torch.int64))

    def forward(self, users: Int[Tensor, " B"]) -> Float[Tensor, "B E"]:
        """The vectors of users with these numbers."""
        place = torch.searchsorted(self.numbers, users).clamp(max=len(self.numbers) - 1)
        return self.table(place) * (self.numbers[place] == users).unsqueeze(1)
