"""Extra: what sampling knew of each candidate, as further inputs of a ranker on stored vectors."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ranking.batch import Batch

ExtraName = Literal["log_probability", "num_tokens", "agreement", "self_certainty"]

COLUMNS: dict[ExtraName, str] = {
    "log_probability": "log_probability",
    "num_tokens": "num_tokens",
    "agreement": "answer",
    "self_certainty": "self_certainty",
}
"""The column of a batch that each input is computed from."""


class Extra(nn.Module):
    """A linear map of each candidate's further inputs to the size of its vector.

    Args:
        names: The inputs, each once.
        dim: Size of the outputs.

    Raises:
        ValueError: If an input is named twice.
    """

    def __init__(self, names: Sequence[ExtraName], dim: int) -> None:
        super().__init__()
        if len(set(names)) < len(names):
            raise ValueError(f"extra names an input twice: {', '.join(names)}")
        self.names = tuple(names)
        self.linear = nn.Linear(len(names), dim, bias=False)

    def forward(self, batch: Batch) -> Float[Tensor, "B K d"]:
        """A vector to add to that of each candidate; 0 where the mask is False."""
        return self.linear(inputs_of(batch, self.names).to(self.linear.weight.dtype))


def inputs_of(batch: Batch, names: Sequence[ExtraName]) -> Float[Tensor, "B K E"]:
    """The inputs of each candidate, normalised within its group.

    `agreement` is the share of the group's candidates that give the same answer; 0 without an answer. Any other input x
    is (x - mean) / deviation, over the candidates of the group whose value is known; 0 for the others, and where all
    known values are equal. Candidates that do not exist take no part.

    Args:
        batch: A batch that has the columns.
        names: The inputs.

    Raises:
        ValueError: If the batch lacks a column.

    Example:
        >>> batch = Batch(
        ...     labels=torch.zeros(1, 3),
        ...     mask=torch.ones(1, 3, dtype=torch.bool),
        ...     group=torch.zeros(1, dtype=torch.int64),
        ...     slot=torch.arange(3).unsqueeze(0),
        ...     answer=torch.tensor([[7, 7, 0]]),
        ...     num_tokens=torch.tensor([[2, 4, -1]]),
        ... )
        >>> inputs_of(batch, ["num_tokens", "agreement"])
        tensor([[[-1.0000,  0.6667],
                 [ 1.0000,  0.6667],
                 [ 0.0000,  0.0000]]])
    """
    return torch.stack([_input(batch, name) for name in names], dim=-1)


def _input(batch: Batch, name: ExtraName) -> Float[Tensor, "B K"]:
    values = getattr(batch, COLUMNS[name])
    if values is None:
        raise ValueError(f"the ranker has the extra input {name}, but the batch has no column {COLUMNS[name]}")
    if name == "agreement":
        same = (values.unsqueeze(1) == values.unsqueeze(2)) & batch.mask.unsqueeze(1)
        share = same.sum(dim=2) / batch.mask.sum(dim=1, keepdim=True).clamp(min=1)
        return share.masked_fill((values == 0) | ~batch.mask, 0)
    known = batch.mask & ((values >= 0) if name == "num_tokens" else values.isfinite())
    return _standardized(values.float(), known)


def _standardized(values: Float[Tensor, "B K"], known: Bool[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    count = known.sum(dim=1, keepdim=True).clamp(min=1)
    values = values.masked_fill(~known, 0)
    centred = (values - values.sum(dim=1, keepdim=True) / count).masked_fill(~known, 0)
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    # Equal values differ from their mean by rounding, which must not be blown up to 1.
    differ = deviation > 1e-5 * values.abs().amax(dim=1, keepdim=True)
    return torch.where(differ, centred / torch.where(differ, deviation, 1), 0)
