"""Projections: the first layer of a ranker, which maps stored features to the vectors of the ranker.

A projection is a module that takes a `feature_dim` and has an attribute `dim`, the size of its outputs.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from registry import PROJECTIONS
from registry.ranges import FeatureDim, Width


@PROJECTIONS.register("linear")
class Linear(nn.Module):
    """A linear map without bias, W x (Language Ranker, section 2).

    Args:
        feature_dim: Size of the stored features.
        dim: Size of the outputs; null for the size of the features.
        init: `random`, or `identity` to start by returning the first `dim` features unchanged.
    """

    def __init__(
        self, feature_dim: FeatureDim, dim: Width | None = 64, init: Literal["random", "identity"] = "random"
    ) -> None:
        super().__init__()
        self.dim = feature_dim if dim is None else dim
        self.linear = nn.Linear(feature_dim, self.dim, bias=False)
        if init == "identity":
            nn.init.eye_(self.linear.weight)

    def forward(self, features: Float[Tensor, "*N F"]) -> Float[Tensor, "*N D"]:
        """Project the features."""
        return self.linear(features)


@PROJECTIONS.register("low_rank")
class LowRank(nn.Module):
    """A low-rank correction that starts at zero, x + B A x (the residual form of LoRA, Hu et al. 2021).

    Args:
        feature_dim: Size of the stored features, and of the outputs.
        rank: Rank of the correction: the number of rows of A.
    """

    def __init__(self, feature_dim: FeatureDim, rank: Width = 64) -> None:
        super().__init__()
        self.dim = feature_dim
        self.down = nn.Linear(feature_dim, rank, bias=False)
        self.up = nn.Linear(rank, feature_dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, features: Float[Tensor, "*N F"]) -> Float[Tensor, "*N F"]:
        """Add the correction to the features."""
        return features + self.up(self.down(features))
