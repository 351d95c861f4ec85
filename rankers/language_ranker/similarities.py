"""Similarities: compute a score from a query's vector and a candidate's.

A similarity scores Q queries against K candidates in each of G groups. So one module can score a batch of lists (G
lists, Q = 1), and also a batch of queries against shared candidates (G = 1, Q queries, one copy of K candidates).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from registry import SIMILARITIES
from registry.ranges import FeatureDim


@SIMILARITIES.register("dot")
class Dot(nn.Module):
    """Inner product, q . c."""

    def forward(self, queries: Float[Tensor, "G Q D"], candidates: Float[Tensor, "G K D"]) -> Float[Tensor, "G Q K"]:
        """Score each query against each candidate of its group."""
        return _products(queries, candidates)


@SIMILARITIES.register("cosine")
class Cosine(nn.Module):
    """Inner product of the vectors scaled to length 1, in [-1, 1]; 0 for a zero vector."""

    def forward(self, queries: Float[Tensor, "G Q D"], candidates: Float[Tensor, "G K D"]) -> Float[Tensor, "G Q K"]:
        """Score each query against each candidate of its group."""
        return _products(_unit(queries), _unit(candidates))


@SIMILARITIES.register("bilinear")
class Bilinear(nn.Module):
    """Inner product under a learned matrix, q^T W c.

    Args:
        dim: Size of the vectors.
        init: Initial W: `identity`, which starts as `dot`, or `random`.
    """

    def __init__(self, dim: FeatureDim, init: Literal["identity", "random"] = "identity") -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim, bias=False)
        if init == "identity":
            nn.init.eye_(self.map.weight)

    def forward(self, queries: Float[Tensor, "G Q D"], candidates: Float[Tensor, "G K D"]) -> Float[Tensor, "G Q K"]:
        """Score each query against each candidate of its group."""
        return _products(self.map(queries), candidates)


@SIMILARITIES.register("mlp")
class Mlp(nn.Module):
    """A learned function of both vectors, w . GELU(A q + B c + a) + b, whose scores can have any scale.

    Args:
        dim: Size of the vectors, and of the hidden layer.

    Note:
        This similarity needs more memory than the others: one hidden vector per pair of a query and a candidate.
    """

    def __init__(self, dim: FeatureDim) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.candidate = nn.Linear(dim, dim, bias=False)
        self.score = nn.Linear(dim, 1)

    def forward(self, queries: Float[Tensor, "G Q D"], candidates: Float[Tensor, "G K D"]) -> Float[Tensor, "G Q K"]:
        """Score each query against each candidate of its group."""
        hidden = F.gelu(self.query(queries).unsqueeze(-2) + self.candidate(candidates).unsqueeze(-3))
        with full_precision(hidden):
            return F.linear(hidden.float(), self.score.weight.float(), self.score.bias.float()).squeeze(-1)


def _unit(vectors: Float[Tensor, "G N D"]) -> Float[Tensor, "G N D"]:
    return F.normalize(vectors.float(), dim=-1, eps=1e-8)


def _products(queries: Float[Tensor, "G Q D"], candidates: Float[Tensor, "G K D"]) -> Float[Tensor, "G Q K"]:
    with full_precision(queries):
        return queries.float() @ candidates.float().transpose(-2, -1)


def full_precision(tensor: Tensor) -> torch.autocast:
    """Turn off mixed precision for the scores: rounded to bf16, different candidates would tie."""
    return torch.autocast(tensor.device.type, enabled=False)
