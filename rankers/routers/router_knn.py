"""RouterKNN: a model's score is its mean label on the training queries that are most similar to the query."""

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Reporting
from rankers.language_ranker.similarities import full_precision
from rankers.routers.router import Router
from ranking.batch import FeatureBatch
from registry import RANKERS
from registry.ranges import Count, FeatureDim, Rows


@RANKERS.register("router_knn")
class RouterKNN(Router):
    """The k nearest training queries by cosine vote (Hu et al. 2024, RouterBench, arXiv 2403.12031); no weights.

    score(q, m) = mean of label(n, m) over the neighbours n of q on which m was tried; m's mean over all training
    queries if it was tried on none of them.

    Args:
        num_neighbors: k, usually 5 to 40; if there are fewer training queries, all count.
        max_queries: The most training queries to keep, evenly spread over the store. Each takes 4 D bytes.
    """

    def __init__(
        self,
        feature_dim: FeatureDim,
        num_neighbors: Count = 40,
        max_queries: Rows = 50_000,
        **reporting: Unpack[Reporting],
    ) -> None:
        super().__init__(feature_dim, max_queries, **reporting)
        self._num_neighbors = num_neighbors

    def scores_of(self, batch: FeatureBatch) -> Float[Tensor, "B M"]:
        """The mean label of each model among the neighbours of each query."""
        neighbours = self.neighbours(batch).indices
        found = self.labels.float()[neighbours].nanmean(dim=1)
        found = torch.where(found.isnan(), self.labels.float().nanmean(dim=0), found)
        return found[batch.query_index]

    def neighbours(self, batch: FeatureBatch) -> "torch.return_types.topk":
        """The cosines (`values`) and numbers (`indices`) of the training queries most similar to each unique query."""
        with full_precision(batch.unique_queries):
            unit = torch.nn.functional.normalize(batch.unique_queries.float(), dim=1)
            cosines = unit @ torch.nn.functional.normalize(self.queries.float(), dim=1).T
        return cosines.topk(min(self._num_neighbors, len(self.queries)), dim=1)
