"""KnnProbe: scores a candidate by the labels of the nearest training candidates; it has no weights to train."""

from collections.abc import Mapping
from typing import Any, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Reporting
from rankers.language_ranker.similarities import full_precision
from rankers.probes.probe import Probe
from ranking.batch import FeatureBatch
from registry import RANKERS
from registry.ranges import Count, FeatureDim, Rows

_DISTANCES = 2**24  # the most distances in memory at once


@RANKERS.register("knn_probe")
class KnnProbe(Probe):
    """The score of a candidate is the mean label of the k training candidates whose vectors are nearest to its own.

    The training candidates are read once before a run; they are buffers, so a checkpoint holds them. The query's vector
    does not enter, nor do the other candidates of the group.

    Args:
        num_neighbors: k; if there are fewer training candidates, all count.
        metric: The distance: `euclidean`, or `cosine` for 1 - cosine.
        max_vectors: The most training candidates to keep, evenly spread over the store. Each takes 4 D bytes.
        standardize: Whether to subtract from each coordinate its mean over the training candidates, and divide it by
            its deviation.
    """

    vectors: Tensor
    labels: Tensor

    def __init__(
        self,
        feature_dim: FeatureDim,
        num_neighbors: Count = 50,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        max_vectors: Rows = 50_000,
        standardize: bool = True,
        **reporting: Unpack[Reporting],
    ) -> None:
        super().__init__(feature_dim, standardize, **reporting)
        self._num_neighbors, self._metric, self._max_vectors = num_neighbors, metric, max_vectors
        self.register_buffer("vectors", torch.empty(0, feature_dim))
        self.register_buffer("labels", torch.empty(0))

    def learn_from(self, data: Any) -> None:
        """Keep the training candidates' vectors and labels."""
        super().learn_from(data)
        parts = [(self._located(vectors), labels) for vectors, labels in data.training_vectors(self._max_vectors)]
        self.vectors, self.labels = (torch.cat(part) for part in zip(*parts, strict=True))

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "B K"]:
        """Score every candidate by its neighbours.

        Raises:
            ValueError: If there are no training candidates: it was neither trained by a run nor loaded.
        """
        if not len(self.labels):
            raise ValueError("knn_probe has no training candidates: train it by a run, load it, or call learn_from")
        with full_precision(batch.unique_candidates):
            parts = self._located(batch.unique_candidates).split(max(1, _DISTANCES // len(self.labels)))
            scores = torch.cat([self._mean_labels(part) for part in parts])
        return scores[batch.candidate_index]

    def _located(self, vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The vectors as distances are measured between them; of unit vectors, Euclidean distances order as cosines."""
        scaled = self.scaled(vectors)
        return torch.nn.functional.normalize(scaled, dim=1) if self._metric == "cosine" else scaled

    def _mean_labels(self, vectors: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        known = self.vectors.float()
        # The squared distance less |x|^2, which is the same for all neighbours of x.
        distances = known.square().sum(dim=1) - 2 * vectors @ known.T
        nearest = distances.topk(min(self._num_neighbors, len(known)), largest=False).indices
        return self.labels.float()[nearest].mean(dim=1)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Make room for as many training candidates as were saved, then load them."""
        for name in ("vectors", "labels"):
            if name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[name], device=self.labels.device))
        return super().load_state_dict(state_dict, strict, assign)
