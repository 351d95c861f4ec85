"""Likeliest: ranks responses by how probable the language model found them."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("likeliest")
class Likeliest(Untrained[Batch]):
    """Scores a response by its log-probability; responses without a known probability come last."""

    batch_type: ClassVar[type[Batch]] = Batch

    def lacks(self, data: Any) -> str | None:
        """Report candidates without log-probabilities."""
        return None if data.known.log_probabilities else "no probabilities of the candidates are known"

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """The log-probability of each candidate, in nats."""
        assert batch.log_probability is not None
        return batch.log_probability.nan_to_num(nan=torch.finfo(torch.float32).min)
