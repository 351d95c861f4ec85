"""MlpProbe: a small network on each candidate's vector, trained like a reward model on pairs (Bradley-Terry)."""

from typing import ClassVar, Unpack

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rankers.base import Training
from rankers.language_ranker.similarities import full_precision
from rankers.probes.probe import Probe
from ranking.batch import FeatureBatch
from registry import RANKERS, Node
from registry.ranges import Dropout, FeatureDim, Width


@RANKERS.register("mlp_probe")
class MlpProbe(Probe):
    """The score of a candidate with the vector c is v . GELU(A c + a), or v . GELU(A c + B q + a) with the query's q.

    The default loss is that of a reward model: the probability that i is better than j is sigmoid(s_i - s_j) (Bradley
    and Terry 1952). So v has no bias, which would cancel out.

    Args:
        dim: Size of the hidden layer.
        use_query: Whether to read the query's vector too. The state of a response's last token has read the prompt
            already.
        dropout: Share of the hidden values set to 0 in training.
        standardize: Whether to subtract from each coordinate its mean over the training candidates, and divide it by
            its deviation; the same numbers serve for queries.
    """

    default_loss: ClassVar[Node] = "pairwise_logistic"

    def __init__(
        self,
        feature_dim: FeatureDim,
        dim: Width = 64,
        use_query: bool = False,
        dropout: Dropout = 0.0,
        standardize: bool = True,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(feature_dim, standardize, **training)
        self.candidate = nn.Linear(feature_dim, dim)
        self.query = nn.Linear(feature_dim, dim, bias=False) if use_query else None
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "B K"]:
        """Score every candidate by its own vector, and the query's if it is used."""
        hidden = self._mapped(self.candidate, batch.unique_candidates)[batch.candidate_index]
        if self.query is not None:
            hidden = hidden + self._mapped(self.query, batch.unique_queries)[batch.query_index].unsqueeze(1)
        hidden = self.dropout(F.gelu(hidden))
        with full_precision(hidden):
            return F.linear(hidden.float(), self.score.weight.float()).squeeze(-1)

    def _mapped(self, layer: nn.Linear, vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N d"]:
        return layer(self.scaled(vectors).to(layer.weight.dtype))
