"""Conversation: a prompt and the responses to it as tokens, and their hidden states."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Conversation(NamedTuple):
    """The tokens of a prompt and of each response to it."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]


class States(NamedTuple):
    """The states of a prompt and of each response to it, in fp32 on the CPU."""

    query: Float[Tensor, "L D"]
    responses: Float[Tensor, "N L D"]
