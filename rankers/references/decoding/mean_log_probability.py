"""MeanLogProbability: ranks responses by how probable the language model found their tokens on average."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("mean_log_probability")
class MeanLogProbability(Untrained[Batch]):
    """Scores a response by its log-probability per token, so that a long response loses nothing by its length.

    Responses whose probability or number of tokens is unknown come last.
    """

    batch_type: ClassVar[type[Batch]] = Batch

    def lacks(self, data: Any) -> str | None:
        """Report candidates without log-probabilities or numbers of tokens."""
        if not data.known.log_probabilities:
            return "no probabilities of the candidates are known"
        return None if data.known.num_tokens else "no numbers of tokens of the candidates are known"

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """The mean log-probability of each candidate's tokens, in nats."""
        assert batch.log_probability is not None and batch.num_tokens is not None
        mean = batch.log_probability / batch.num_tokens.clamp(min=1)
        known = (batch.num_tokens > 0) & ~mean.isnan()
        return mean.where(known, torch.finfo(torch.float32).min)
