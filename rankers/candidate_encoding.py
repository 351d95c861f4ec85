"""Candidate encoding: all texts of a pool by the model that is trained, for judging it."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ranking.candidate_pool import CandidatePool

# Texts that are tokenized at once, and tokens, padding included, that are embedded at once.
_CHUNK, _BATCH_TOKENS = 1 << 16, 1 << 14


@torch.no_grad()
def encode_pool(
    pool: CandidatePool,
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    embed: Callable[[Int[Tensor, "C U"], Int[Tensor, " C"]], Float[Tensor, "C E"]],
    device: torch.device,
) -> Float[Tensor, "N E"]:
    """The vectors of all candidates, in fp32, where they were computed.

    Args:
        pool: The candidates.
        tokenize: From texts to tokens.
        embed: From tokens, filled up on the right, and their numbers to vectors.
        device: Where to compute them.
    """
    found = None
    for start in range(0, pool.num_candidates, _CHUNK):
        rows = range(start, min(start + _CHUNK, pool.num_candidates))
        tokens = [torch.tensor(ids) for ids in tokenize([pool.text(row) for row in rows])]
        order, first = sorted(range(len(tokens)), key=lambda place: -len(tokens[place])), 0
        while first < len(order):
            some = order[first : first + max(1, _BATCH_TOKENS // len(tokens[order[first]]))]
            first += len(some)
            padded = torch.nn.utils.rnn.pad_sequence([tokens[place] for place in some], batch_first=True)
            lengths = torch.tensor([len(tokens[place]) for place in some])
            vectors = embed(padded.to(device), lengths.to(device))
            if found is None:
                found = vectors.new_empty(pool.num_candidates, vectors.shape[1])
            found[start + torch.tensor(some, device=device)] = vectors
    assert found is not None
    return found
