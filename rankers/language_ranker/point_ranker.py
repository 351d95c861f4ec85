"""PointRanker: each candidate is scored on its own (Language Ranker, Eqs. 3-4)."""

from typing import Annotated, ClassVar, Literal, Unpack

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rankers.base import Ranker, Training
from rankers.language_ranker.feature_layers import FeatureLayers
from rankers.language_ranker.scaled_similarity import ScaledSimilarity
from ranking.batch import FeatureBatch
from registry import BLOCKS, PROJECTIONS, RANKERS, SIMILARITIES, Node
from registry.ranges import FeatureDim, Temperature


@RANKERS.register("point_ranker")
class PointRanker(Ranker[FeatureBatch]):
    """PointRanker: map query and candidate alike, each on its own, and compare (Language Ranker, Eqs. 3-4).

    q' = Blocks(Proj(q)), c_k' = Blocks(Proj(c_k)) and s_k = Sim(q', c_k') / temperature, arXiv 2510.21883. Since no
    candidate sees another, any candidate can serve any query as a negative: `datamodule.negatives`.

    Args:
        feature_dim: Size D of the stored vectors.
        projection: Map from D to the blocks' size; null to work on D itself.
        block: The layer each vector goes through.
        num_blocks: How many of them, each with weights of its own; 0 is the paper's ablation without MLP.
        query: `feature`, or `learned` for one vector that stands in for every query (the paper's ablation).
        similarity: How a query and a candidate become a score.
        temperature: Divides the scores; 1 in the paper.
        learn_temperature: Train it, from the given value.
        training: Loss, optimizer, schedule, metrics.
    """

    default_loss: ClassVar[Node] = "bce"
    takes_shared_negatives: ClassVar[bool] = True

    def __init__(
        self,
        feature_dim: FeatureDim,
        projection: Annotated[Node, PROJECTIONS] | None = "linear",
        block: Annotated[Node, BLOCKS] = "mlp",
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
        """The score of every candidate, whatever the others are."""
        candidates = self._map(batch.unique_candidates)[batch.candidate_index]
        return self.similarity(self._queries(batch).unsqueeze(1), candidates).squeeze(1)

    def training_scores(
        self, batch: FeatureBatch
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"], Bool[Tensor, "B N"]]:
        """Scores of the groups, or of every query against every vector of the batch where negatives are shared."""
        if batch.excluded is None:
            return super().training_scores(batch)
        candidates = self._map(batch.unique_candidates)
        return self.similarity(self._queries(batch).unsqueeze(0), candidates.unsqueeze(0)).squeeze(0), *(
            batch.against_table()
        )

    def _queries(self, batch: FeatureBatch) -> Float[Tensor, "B d"]:
        if self.query is not None:
            return self._blocks(self.query.expand(len(batch.query_index), -1))
        return self._map(batch.unique_queries)[batch.query_index]

    def _map(self, vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N d"]:
        return self._blocks(self.layers.project(vectors))

    def _blocks(self, vectors: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        alone = torch.ones(len(vectors), 1, dtype=torch.bool, device=vectors.device)
        return self.layers.refine(vectors.unsqueeze(1), alone).squeeze(1)
