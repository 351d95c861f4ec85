"""Length buckets: batches of texts of about the same length, in random order."""

import torch
from jaxtyping import Int
from torch import Tensor

_BATCHES_SORTED_TOGETHER = 50


def length_buckets(lengths: Int[Tensor, " n"], batch_size: int, generator: torch.Generator) -> list[Int[Tensor, " b"]]:
    """All places once, in batches that need little filling up; one batch may be smaller.

    Places are shuffled, sorted by length within windows of 50 batches, and the batches shuffled: any two batches can
    come together, and any two places of different windows never share one because of their length alone.

    Args:
        lengths: Of the texts.
        batch_size: Texts in a batch.
        generator: Where the randomness comes from.
    """
    batches: list[Tensor] = []
    for window in torch.randperm(len(lengths), generator=generator).split(_BATCHES_SORTED_TOGETHER * batch_size):
        batches += window[lengths[window].argsort(stable=True)].split(batch_size)
    return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
