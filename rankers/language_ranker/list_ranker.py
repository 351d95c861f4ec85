"""ListRanker: compares candidates with each other before it scores them (Language Ranker, Eqs. 1-2)."""

from typing import Annotated, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.language_ranker.feature_ranker import FeatureOptions, FeatureRanker
from ranking.batch import FeatureBatch
from registry import BLOCKS, RANKERS, Node
from registry.ranges import FeatureDim


@RANKERS.register("list_ranker")
class ListRanker(FeatureRanker):
    """ListRanker: project query and candidates, let them attend to each other, compare (Language Ranker, Eqs. 1-2).

    [q', c_1', ..., c_K'] = Blocks(Proj([q, c_1, ..., c_K])) and s_k = Sim(q', c_k') / temperature, arXiv 2510.21883.

    Args:
        feature_dim: Size D of the stored vectors.
        block: The layer in which query and candidates attend to each other.
        num_blocks: Number of blocks, each with its own weights; the paper uses 1 to 4.
    """

    def __init__(
        self,
        feature_dim: FeatureDim,
        block: Annotated[Node, BLOCKS] = "transformer",
        **options: Unpack[FeatureOptions],
    ) -> None:
        super().__init__(feature_dim, block, **options)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "B K"]:
        """Score every candidate, given the other candidates of its group."""
        candidates = self.projected_candidates(batch)
        if self.query is None:
            query = self.layers.project(batch.unique_queries)[batch.query_index]
        else:
            query = self.query.to(candidates.dtype).expand(len(candidates), -1)
        vectors = torch.cat([query.unsqueeze(1), candidates], dim=1)
        mask = torch.nn.functional.pad(batch.mask, (1, 0), value=True)
        vectors = self.layers.refine(vectors, mask)
        return self.similarity(vectors[:, :1], vectors[:, 1:]).squeeze(1)
