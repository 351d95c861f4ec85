"""Draws: some of many ids, at random but always the same ones, in whatever order they come."""

import hashlib
import heapq
from collections.abc import Iterable
from functools import partial

from registry import ConfigError


def draw_key(seed: int | str, id: str) -> bytes:
    """Where an id stands in the order that a seed gives to all ids."""
    return hashlib.blake2b(f"{seed} {id}".encode(), digest_size=8).digest()


def drawn(ids: Iterable[str], number: int | None, seed: int | str) -> set[str]:
    """So many of the ids; all of them where there are no more, or for None.

    >>> sorted(drawn("abcdefgh", 3, seed=0))
    ['a', 'b', 'c']
    """
    return set(ids) if number is None else set(heapq.nsmallest(number, ids, key=partial(draw_key, seed)))


def pool_of(relevant: set[str], others: Iterable[str], number: int, seed: int) -> set[str]:
    """The ids of a pool of a given size: the relevant ones, and others drawn.

    Raises:
        ConfigError: If there are more relevant ones than that.
    """
    if number < len(relevant):
        problem = f"{number:,} is less than the {len(relevant):,} relevant candidates of the queries."
        raise ConfigError("features.source.num_candidates", problem, cure="more candidates, or fewer num_queries")
    return relevant | drawn((id for id in others if id not in relevant), number - len(relevant), seed)
