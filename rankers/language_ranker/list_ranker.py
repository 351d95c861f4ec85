"""ListRanker: candidates are compared with one another before they are scored (Language Ranker, Eqs. 1-2)."""

from typing import Annotated, Literal, Unpack

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor, nn

from rankers.base import Ranker, Training
from rankers.language_ranker.feature_layers import FeatureLayers
from rankers.language_ranker.scaled_similarity import ScaledSimilarity
from ranking.batch import FeatureBatch
from registry import BLOCKS, PROJECTIONS, RANKERS, SIMILARITIES, Node
from registry.ranges import FeatureDim, Temperature


@RANKERS.register("list_ranker")
class ListRanker(Ranker[FeatureBatch]):
    """ListRanker: project query and candidates, let them attend to each other, compare (Language Ranker, Eqs. 1-2).

    [q', c_1', ..., c_K'] = Blocks(Proj([q, c_1, ..., c_K])) and s_k = Sim(q', c_k') / temperature, arXiv 2510.21883.

    Args:
        feature_dim: Size D of the stored vectors.
        projection: Map from D to the blocks' size; null to work on D itself.
        block: The layer that lets query and candidates see each other.
        num_blocks: How many of them, each with weights of its own; the paper has 1 to 4.
        query: `feature`, or `learned` for one vector that stands in for every query (the paper's ablation).
        similarity: How a query and a candidate become a score.
        temperature: Divides the scores; 1 in the paper.
        learn_temperature: Train it, from the given value.
        training: Loss, optimizer, schedule, metrics.
    """

    def __init__(
        self,
        feature_dim: FeatureDim,
        projection: Annotated[Node, PROJECTIONS] | None = "linear",
        block: Annotated[Node, BLOCKS] = "transformer",
        num_blocks: Annotated[int, Interval(ge=0, le=256)] = 1,
        query: Literal["feature", "learned"] = "feature",
        similarity: Annotated[Node, SIMILARITIES] = "cosine",
        temperature: Temperature = 1.0,
        learn_temperature: bool = False,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(**training)
        self.layers = FeatureLayers(feature_dim, projection, block, num_blocks)
        self.query = nn.Parameter(torch.randn(self.layers.dim)) if query == "learned" else None
        self.similarity = ScaledSimilarity(similarity, self.layers.dim, temperature, learn_temperature)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "B K"]:
        """The score of every candidate in the company of the others."""
        candidates = self.layers.project(batch.unique_candidates)[batch.candidate_index]
        if self.query is None:
            query = self.layers.project(batch.unique_queries)[batch.query_index]
        else:
            query = self.query.to(candidates.dtype).expand(len(candidates), -1)
        vectors = torch.cat([query.unsqueeze(1), candidates], dim=1)
        mask = torch.nn.functional.pad(batch.mask, (1, 0), value=True)
        vectors = self.layers.refine(vectors, mask)
        return self.similarity(vectors[:, :1], vectors[:, 1:]).squeeze(1)
