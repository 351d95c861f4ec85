"""ScaledSimilarity: a similarity divided by a temperature, fixed or learned."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from registry import SIMILARITIES, Node


class ScaledSimilarity(nn.Module):
    """Sim(q, c) / temperature.

    Args:
        similarity: How a query and a candidate become a number.
        dim: Size of both.
        temperature: What it is divided by. A cosine lies in [-1, 1], where a softmax over it is nearly flat; a smaller
            temperature lets it become sharp.
        learned: Train the temperature, through its logarithm, so that it stays positive.
    """

    def __init__(self, similarity: Node, dim: int, temperature: float, learned: bool) -> None:
        super().__init__()
        self.similarity = SIMILARITIES.build(similarity, dim=dim, path="ranker.similarity")
        log_temperature = torch.tensor(math.log(temperature))
        if learned:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature, persistent=False)

    def forward(self, queries: Float[Tensor, "G Q d"], candidates: Float[Tensor, "G K d"]) -> Float[Tensor, "G Q K"]:
        """Scores of Q queries against K candidates, in each of G groups."""
        return self.similarity(queries, candidates) * torch.exp(-self.log_temperature)
