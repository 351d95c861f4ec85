"""Longest: ranks responses by their number of tokens, the most first."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from rankers.base import Untrained
from ranking.batch import Batch
from registry import RANKERS


@RANKERS.register("longest")
class Longest(Untrained[Batch]):
    """Prefers long responses, as many judges do; those of unknown length come last. Lengths are as in `shortest`."""

    batch_type: ClassVar[type[Batch]] = Batch

    def lacks(self, data: Any) -> str | None:
        """Report candidates without numbers of tokens."""
        return None if data.known.num_tokens else "no numbers of tokens of the candidates are known"

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        """The number of tokens of each candidate; -1 where it is unknown."""
        assert batch.num_tokens is not None
        return batch.num_tokens.float()
