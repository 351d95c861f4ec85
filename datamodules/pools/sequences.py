"""Sequences: the items of each user in the order of time, joined from the user's training queries."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from datamodules.pools.token_lists import TokenLists
from ranking.stores.candidate_pool import CandidatePool


def sequences_of_users(pool: CandidatePool, queries: Int[Tensor, " Q"]) -> TokenLists:
    """Join the histories and right candidates of each user's queries; what overlaps counts once.

    A user's sequence has the number of the user's last query.

    Args:
        pool: The pool of the queries.
        queries: Their numbers, ascending; the queries of a user are in the order of time, each with right candidates.
    """
    known = pool.queries
    starts = {name: getattr(known, f"{name}_offsets") for name in ("history", "relevant")}
    joined: dict[int, list[int]] = {}
    last: dict[int, int] = {}
    for query, user in zip(queries.tolist(), known.user[queries].tolist(), strict=True):
        seen, right = (getattr(known, name)[offsets[query] : offsets[query + 1]] for name, offsets in starts.items())
        _append(joined.setdefault(user, []), [*seen.tolist(), *right.tolist()])
        last[user] = query
    index, order = torch.tensor([last[user] for user in joined], dtype=torch.int64).sort()
    sequences = list(joined.values())
    flat = [item for place in order.tolist() for item in sequences[place]]
    sizes = torch.tensor([len(sequences[place]) for place in order.tolist()], dtype=torch.int64)
    return TokenLists(index, torch.tensor(flat), torch.nn.functional.pad(sizes.cumsum(0), (1, 0)))


def pieces_of(sequences: TokenLists, longest: int | None) -> TokenLists:
    """Cut sequences into pieces with at most `longest` items after their first one.

    A piece begins with the last item of the piece before it, so every item but a user's first is predicted once.
    """
    index, flat = [], []
    for query, (start, end) in zip(sequences.index.tolist(), pairwise(sequences.offsets.tolist()), strict=True):
        for first, stop in _cuts(start, end, longest or end - start):
            index.append(query)
            flat.append(sequences.flat[first:stop])
    sizes = torch.tensor([len(piece) for piece in flat], dtype=torch.int64)
    joined = torch.cat(flat) if flat else sequences.flat[:0]
    return TokenLists(torch.tensor(index, dtype=torch.int64), joined, torch.nn.functional.pad(sizes.cumsum(0), (1, 0)))


def _append(sequence: list[int], window: list[int]) -> None:
    """Append a window without the part of it with which the sequence ends."""
    for size in range(min(len(sequence), len(window)), 0, -1):
        if sequence[-size:] == window[:size]:
            sequence += window[size:]
            return
    sequence += window


def _cuts(start: int, end: int, longest: int) -> Iterator[tuple[int, int]]:
    """The pieces of a sequence, the latest one first and full."""
    while end - start > 1:
        first = max(start, end - longest - 1)
        yield first, end
        end = first + 1
