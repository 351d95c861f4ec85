"""LinearProbe: logistic regression on the candidates' vectors (Alain and Bengio 2016, arXiv 1610.01644)."""

from typing import ClassVar, Unpack

from jaxtyping import Float
from torch import Tensor, nn

from rankers.base import Training
from rankers.language_ranker.similarities import full_precision
from rankers.probes.probe import Probe
from ranking.batch import FeatureBatch
from registry import RANKERS, Node
from registry.ranges import FeatureDim


@RANKERS.register("linear_probe")
class LinearProbe(Probe):
    """The score of a candidate with the vector c is w . c + b; its sigmoid is the probability that it is right.

    The query's vector does not enter: in a linear score it would add the same amount to all candidates of a query, and
    so change no order. Nor do the other candidates. The weight decay of the optimizer is the regularisation.
    """

    default_loss: ClassVar[Node] = "bce"

    def __init__(self, feature_dim: FeatureDim, standardize: bool = True, **training: Unpack[Training]) -> None:
        super().__init__(feature_dim, standardize, **training)
        self.linear = nn.Linear(feature_dim, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "B K"]:
        """Score every candidate by its own vector."""
        with full_precision(batch.unique_candidates):
            weight, bias = self.linear.weight.float(), self.linear.bias.float()
            scores = nn.functional.linear(self.scaled(batch.unique_candidates), weight, bias)
        return scores.squeeze(1)[batch.candidate_index]
