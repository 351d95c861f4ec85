"""Candidate encoding: embeds all texts of a pool with the model in training, to evaluate it."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from ranking.stores.candidate_pool import CandidatePool

# The number of texts tokenized at once, and of tokens (with padding) embedded at once.
_CHUNK, _BATCH_TOKENS = 1 << 16, 1 << 14


@torch.no_grad()
def encode_pool(
    pool: CandidatePool,
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    embed: Callable[[Int[Tensor, "C U"], Int[Tensor, " C"]], Float[Tensor, "C E"]],
    device: torch.device,
    *,
    distributed: bool = False,
) -> Float[Tensor, "N E"]:
    """The vectors of all candidates in fp32, on the device that computes them.

    Args:
        pool: The candidates.
        tokenize: Converts texts to token ids.
        embed: Computes vectors from tokens, padded on the right, and the number of tokens of each text.
        device: The device to compute on.
        distributed: Whether each process computes a share of the vectors; every process receives all of them.
    """
    count = pool.num_candidates
    if not distributed:
        return _encode_rows(pool, range(count), tokenize, embed, device)
    process, num_processes = dist.get_rank(), dist.get_world_size()
    most = -(-count // num_processes)
    # A process without rows repeats the last one as padding for all_gather.
    start = min(process * most, count - 1)
    mine = _encode_rows(pool, range(start, min(start + most, count)), tokenize, embed, device)
    own = torch.nn.functional.pad(mine, (0, 0, 0, most - len(mine)))
    everyone = own.new_empty(num_processes, *own.shape)
    dist.all_gather(list(everyone), own.contiguous())
    return everyone.flatten(0, 1)[:count]


def _encode_rows(
    pool: CandidatePool,
    wanted: range,
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    embed: Callable[[Int[Tensor, "C U"], Int[Tensor, " C"]], Float[Tensor, "C E"]],
    device: torch.device,
) -> Float[Tensor, "n E"]:
    found = None
    for start in range(0, len(wanted), _CHUNK):
        rows = wanted[start : start + _CHUNK]
        tokens = [torch.tensor(ids) for ids in tokenize([pool.text(row) for row in rows])]
        order, first = sorted(range(len(tokens)), key=lambda place: -len(tokens[place])), 0
        while first < len(order):
            some = order[first : first + max(1, _BATCH_TOKENS // len(tokens[order[first]]))]
            first += len(some)
            padded = torch.nn.utils.rnn.pad_sequence([tokens[place] for place in some], batch_first=True)
            lengths = torch.tensor([len(tokens[place]) for place in some])
            vectors = embed(padded.to(device), lengths.to(device))
            if found is None:
                found = vectors.new_empty(len(wanted), vectors.shape[1])
            found[start + torch.tensor(some, device=device)] = vectors
    assert found is not None
    return found
