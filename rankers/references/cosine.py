"""Cosine: how alike the stored vectors of query and candidate are."""

from jaxtyping import Float
from torch import Tensor, nn

from rankers.base import Ranker
from ranking.batch import FeatureBatch
from registry import RANKERS


@RANKERS.register("cosine")
class Cosine(Ranker[FeatureBatch]):
    """The cosine of the stored vectors: what is known before any training."""

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "B K"]:
        """Between -1 and 1."""
        return nn.functional.cosine_similarity(batch.query.unsqueeze(1), batch.candidates, dim=-1)
