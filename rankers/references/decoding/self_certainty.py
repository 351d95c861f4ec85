"""SelfCertainty: ranks responses by how far the language model was from a uniform choice of tokens."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("self_certainty")
class SelfCertainty(Untrained[Batch]):
    """Scores a response y by its self-certainty (Kang et al. 2025, arXiv 2502.18581, Eq. 5).

    -1 / (n V) sum_i sum_j log(V p(j | y_<i)) over its n tokens and the vocabulary of V: the mean of KL(U || p), U being
    uniform and p the model's distribution before temperature and truncation. It needs every p(j), so the generator
    `transformers` computes it while it samples; it cannot be computed from the log-probabilities of the tokens alone.
    Responses of unknown self-certainty come last.
    """

    batch_type: ClassVar[type[Batch]] = Batch

    def lacks(self, data: Any) -> str | None:
        """Report candidates without self-certainty."""
        return None if data.known.self_certainties else "no self-certainty of the candidates is known"

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """The self-certainty of each candidate, in nats."""
        assert batch.self_certainty is not None
        return batch.self_certainty.nan_to_num(nan=torch.finfo(torch.float32).min)
