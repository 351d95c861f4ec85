"""Shortest: ranks responses by their number of tokens, the fewest first."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("shortest")
class Shortest(Untrained[Batch]):
    """Prefers short responses; those of unknown length come last.

    The length is the number of tokens that the language model wrote, never that of characters: the two orders differ,
    and a table should not mix them.
    """

    batch_type: ClassVar[type[Batch]] = Batch

    def lacks(self, data: Any) -> str | None:
        """Report candidates without numbers of tokens."""
        return None if data.known.num_tokens else "no numbers of tokens of the candidates are known"

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """The negative number of tokens of each candidate."""
        assert batch.num_tokens is not None
        return (-batch.num_tokens.float()).where(batch.num_tokens >= 0, torch.finfo(torch.float32).min)
