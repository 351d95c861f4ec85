"""Length buckets: batches of texts of similar length, in random order."""

import torch
from jaxtyping import Int
from torch import Tensor

_BATCHES_SORTED_TOGETHER = 50


def length_buckets(lengths: Int[Tensor, " n"], batch_size: int, generator: torch.Generator) -> list[Int[Tensor, " b"]]:
    """Every place once, in batches that need little padding; one batch may be smaller.

    Texts are sorted within windows of 50 batches; batches come in random order.

    Args:
        lengths: The lengths of the texts.
        batch_size: The number of texts in a batch.
        generator: The random generator.
    """
    batches: list[Tensor] = []
    for window in torch.randperm(len(lengths), generator=generator).split(_BATCHES_SORTED_TOGETHER * batch_size):
        batches += window[lengths[window].argsort(stable=True)].split(batch_size)
    return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
