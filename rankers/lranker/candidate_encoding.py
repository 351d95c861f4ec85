"""Candidate encoding: all texts of a pool by the model that is trained, for judging it."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from ranking.stores.candidate_pool import CandidatePool

# Texts that are tokenized at once, and tokens, padding included, that are embedded at once.
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
    """The vectors of all candidates, in fp32, where they were computed.

    Args:
        pool: The candidates.
        tokenize: From texts to tokens.
        embed: From tokens, filled up on the right, and their numbers to vectors.
        device: Where to compute them.
        distributed: Whether each process is to compute a share; all get all.
    """
    count = pool.num_candidates
    if not distributed:
        return _encode_rows(pool, range(count), tokenize, embed, device)
    process, num_processes = dist.get_rank(), dist.get_world_size()
    most = -(-count // num_processes)
    # Who has nothing to do does the last row again, which fills a place beyond the end.
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
