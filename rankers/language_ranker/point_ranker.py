"""PointRanker: scores each candidate independently of the others (Language Ranker, Eqs. 3-4)."""

from typing import Annotated, ClassVar, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rankers.language_ranker.feature_ranker import FeatureOptions, FeatureRanker
from ranking.batch import FeatureBatch
from registry import BLOCKS, RANKERS, Node
from registry.ranges import FeatureDim


@RANKERS.register("point_ranker")
class PointRanker(FeatureRanker):
    """PointRanker: map query and candidate with the same layers, then compare (Language Ranker, Eqs. 3-4).

    q' = Blocks(Proj(q)), c_k' = Blocks(Proj(c_k)) and s_k = Sim(q', c_k') / temperature, arXiv 2510.21883. A
    candidate's score does not depend on other candidates, so any candidate can be a negative of any query: see
    `datamodule.negatives`.

    Args:
        feature_dim: Size D of the stored vectors.
        block: The layer that maps each vector.
        num_blocks: Number of blocks, each with its own weights; 0 is the paper's ablation without MLP.
    """

    default_loss: ClassVar[Node] = "bce"
    takes_shared_negatives: ClassVar[bool] = True

    def __init__(
        self,
        feature_dim: FeatureDim,
        block: Annotated[Node, BLOCKS] = "mlp",
        **options: Unpack[FeatureOptions],
    ) -> None:
        super().__init__(feature_dim, block, **options)

    @property
    def is_pointwise(self) -> bool:
        """True, unless the ranker has further inputs, which are normalised within the group."""
        return self.extra_inputs is None

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "B K"]:
        """Score every candidate, independently of the others."""
        if self.extra_inputs is None:
            candidates = self._map(batch.unique_candidates)[batch.candidate_index]
        else:
            candidates = self._blocks(self.projected_candidates(batch).flatten(0, 1)).unflatten(0, batch.labels.shape)
        return self.similarity(self._queries(batch).unsqueeze(1), candidates).squeeze(1)

    def training_scores(
        self, batch: FeatureBatch
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"], Bool[Tensor, "B N"]]:
        """Scores within each group or, with shared negatives, of every query against every vector of the batch."""
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
