"""Cosine: the similarity of the stored vectors of query and candidate."""

from jaxtyping import Float
from torch import Tensor, nn

from rankers.base import Untrained
from ranking.batch import FeatureBatch
from registry import RANKERS


@RANKERS.register("cosine")
class Cosine(Untrained[FeatureBatch]):
    """Scores a candidate by the cosine of the stored vectors, without any training."""

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "B K"]:
        """Scores in [-1, 1]."""
        return nn.functional.cosine_similarity(batch.query.unsqueeze(1), batch.candidates, dim=-1)
