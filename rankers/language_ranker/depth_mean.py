"""DepthMean: the mean of ListRankers, each of which reads the vectors of another depth of the language model."""

import dataclasses
from typing import Annotated, Any, Unpack, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rankers.base import Training
from rankers.language_ranker.feature_ranker import FeatureOptions
from rankers.language_ranker.list_ranker import ListRanker
from ranking.batch import FeatureBatch
from registry import BLOCKS, RANKERS, Node
from registry.ranges import FeatureDim, Few


@RANKERS.register("depth_mean")
class DepthMean(ListRanker):
    """One `list_ranker` for each depth that `datamodule.depth` lists; they are trained together.

    s_k = 1/L sum_l ListRanker_l(q^l, c_1^l, ..., c_K^l)_k, where x^l is the vector of x at the l-th depth. A batch has
    the vectors of all depths of a query or candidate in one row, one after the other. This ranker is the ListRanker of
    the first depth, and holds those of the others.

    Args:
        feature_dim: Size L D of a row, a multiple of `num_depths`.
        num_depths: L, the number of depths.
        num_blocks: Number of blocks of each ListRanker, each with its own weights.

    Raises:
        ValueError: If `num_depths` does not divide `feature_dim`.
    """

    def __init__(
        self,
        feature_dim: FeatureDim,
        num_depths: Few,
        block: Annotated[Node, BLOCKS] = "transformer",
        **options: Unpack[FeatureOptions],
    ) -> None:
        if feature_dim % num_depths:
            raise ValueError(f"feature_dim {feature_dim} is not the size of {num_depths} vectors of the same size")
        super().__init__(feature_dim // num_depths, block, **options)
        own = {name: value for name, value in options.items() if name not in Training.__annotations__}
        self.others = nn.ModuleList(
            ListRanker(feature_dim // num_depths, block, **cast(Any, own)) for _ in range(num_depths - 1)
        )

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "B K"]:
        """Score every candidate, given the other candidates of its group."""
        rankers = [super().forward, *self.others]
        queries, candidates = (
            each.chunk(len(rankers), dim=1) for each in (batch.unique_queries, batch.unique_candidates)
        )
        scores = [
            ranker(dataclasses.replace(batch, unique_queries=queries[depth], unique_candidates=candidates[depth]))
            for depth, ranker in enumerate(rankers)
        ]
        return torch.stack(scores).mean(dim=0)
