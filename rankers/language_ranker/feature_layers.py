"""FeatureLayers: what a ranker does to stored vectors before it compares them: a projection, then blocks."""

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from registry import BLOCKS, PROJECTIONS, Node


class FeatureLayers(nn.Module):
    """A projection from D to d, and blocks on d.

    Args:
        feature_dim: Size D of the stored vectors.
        projection: Map from D to d; None for d = D.
        block: The layer.
        num_blocks: How many of them, each with weights of its own.
    """

    def __init__(self, feature_dim: int, projection: Node | None, block: Node, num_blocks: int) -> None:
        super().__init__()
        self.projection, self.dim = None, feature_dim
        if projection is not None:
            built: Any = PROJECTIONS.build(projection, path="ranker.projection", feature_dim=feature_dim)
            self.projection, self.dim = built, built.dim
        blocks = (BLOCKS.build(block, path="ranker.block", dim=self.dim) for _ in range(num_blocks))
        self.blocks = nn.ModuleList(blocks)

    def project(self, vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N d"]:
        """Each vector on its own, from the dtype it is stored in to that of the weights."""
        weight = next(self.parameters(), None)
        vectors = vectors.float() if weight is None else vectors.to(weight.dtype)
        return vectors if self.projection is None else self.projection(vectors)

    def refine(self, vectors: Float[Tensor, "B N d"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N d"]:
        """The vectors after all blocks; where the mask is False they may hold anything."""
        for block in self.blocks:
            vectors = block(vectors, mask)
        return vectors
