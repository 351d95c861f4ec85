"""Probe: the base of rankers that score each candidate by its own standardised vector."""

from collections.abc import Iterable
from typing import Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rankers.base import Ranker, Training
from ranking.batch import FeatureBatch


class Probe(Ranker[FeatureBatch]):
    """A ranker that scores standardised vectors; a subclass implements `forward`.

    Args:
        feature_dim: Size D of the stored vectors.
        standardize: Whether to subtract from each coordinate its mean over the training candidates, and divide it by
            its deviation. Some coordinates of hidden states are hundreds of times larger than others.
    """

    def __init__(self, feature_dim: int, standardize: bool = True, **training: Unpack[Training]) -> None:
        super().__init__(**training)
        self.scaler = Standardize(feature_dim) if standardize else None

    @property
    def is_pointwise(self) -> bool:
        """True: the other candidates do not enter."""
        return True

    def learn_from(self, data: Any) -> None:
        """Find mean and deviation of the training candidates' vectors."""
        if self.scaler is not None:
            self.scaler.fit(vectors for vectors, _ in data.training_vectors())

    def scaled(self, vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The vectors as the probe reads them, in fp32."""
        return vectors.float() if self.scaler is None else self.scaler(vectors)


class Standardize(nn.Module):
    """(x - mean) / deviation for each coordinate, as scikit-learn's StandardScaler; the identity until it is fitted.

    Args:
        dim: Size of the vectors.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def fit(self, parts: Iterable[Float[Tensor, "N D"]]) -> None:
        """Find mean and deviation in one pass; the deviation of a coordinate that never changes is 1.

        Args:
            parts: All vectors, in parts of any size.
        """
        count, total, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
        for part in parts:
            values = part.double()
            count += len(values)
            total, squares = total + values.sum(dim=0), squares + values.square().sum(dim=0)
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        changes = variance > 1e-12 * (squares / count)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(changes, variance, 1).sqrt())

    def forward(self, vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The standardised vectors, in fp32."""
        return (vectors.float() - self.mean.float()) / self.deviation.float()
