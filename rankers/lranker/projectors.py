"""Projectors: map centroids of candidates to one input embedding of a backbone (LRanker, Eq. 5).

A projector is a module for K centroids of size D and a backbone of width H. It maps [P, K, D] to [P, H]; missing
centroids are zeros. If every centroid gets its own embedding, K is 1 and one projector maps all centroids. The scale of
its outputs does not matter, because `ContextEmbeddings` sets it.

A projector maps into the input of a language model, as those of models that read images do. The projections of
`rankers/language_ranker/projections.py` map stored vectors to a ranker's own, smaller vectors.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from registry import PROJECTORS
from registry.ranges import FeatureDim, Few


@PROJECTORS.register("mlp")
class Mlp(nn.Module):
    """ReLU(Norm(W [g_1; ...; g_K] + b)) (LRanker, appendix B).

    Args:
        feature_dim: Size D of a centroid.
        num_centroids: K, the number of centroids.
        dim: Size H of the outputs.
        norm: `batch` for batch normalisation, as in the paper, or `layer` for layer normalisation.

    Note:
        A training batch of one row has no variance: it is normalised with the running statistics.
    """

    def __init__(
        self, feature_dim: FeatureDim, num_centroids: Few, dim: FeatureDim, norm: Literal["batch", "layer"] = "batch"
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(num_centroids * feature_dim, dim)
        self.norm = nn.BatchNorm1d(dim) if norm == "batch" else nn.LayerNorm(dim)

    def forward(self, centroids: Float[Tensor, "P K D"]) -> Float[Tensor, "P H"]:
        """One embedding for each set of centroids."""
        hidden = self.linear(centroids.flatten(1))
        if self.training and len(hidden) == 1 and isinstance(norm := self.norm, nn.BatchNorm1d):
            assert norm.running_mean is not None and norm.running_var is not None
            return nn.functional.batch_norm(
                hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
            ).relu()
        return self.norm(hidden).relu()


@PROJECTORS.register("linear")
class Linear(nn.Module):
    """W [g_1; ...; g_K] + b; with K = 1, the shared map of prefix injection.

    Args:
        feature_dim: Size D of a centroid.
        num_centroids: K, the number of centroids.
        dim: Size H of the outputs.
    """

    def __init__(self, feature_dim: FeatureDim, num_centroids: Few, dim: FeatureDim) -> None:
        super().__init__()
        self.linear = nn.Linear(num_centroids * feature_dim, dim)

    def forward(self, centroids: Float[Tensor, "P K D"]) -> Float[Tensor, "P H"]:
        """One embedding for each set of centroids."""
        return self.linear(centroids.flatten(1))
