"""Subsets: some of many ids, chosen at random; the choice does not depend on their order."""

import hashlib
import heapq
from collections.abc import Iterable
from functools import partial

from registry import ConfigError


def draw_key(seed: int | str, id: str) -> bytes:
    """The sort key of an id in the random order that a seed defines."""
    return hashlib.blake2b(f"{seed} {id}".encode(), digest_size=8).digest()


def drawn(ids: Iterable[str], number: int | None, seed: int | str) -> set[str]:
    """Draw `number` of the ids; all of them if there are not more, or for None.

    >>> sorted(drawn("abcdefgh", 3, seed=0))
    ['a', 'b', 'c']
    """
    return set(ids) if number is None else set(heapq.nsmallest(number, ids, key=partial(draw_key, seed)))


def pool_of(relevant: set[str], others: Iterable[str], number: int, seed: int) -> set[str]:
    """The ids of a pool with `number` candidates: all relevant ones, and others drawn at random.

    Raises:
        ConfigError: If there are more than `number` relevant candidates.
    """
    if number < len(relevant):
        problem = f"{number:,} is less than the {len(relevant):,} relevant candidates of the queries."
        raise ConfigError("features.source.num_candidates", problem, cure="set more candidates, or fewer num_queries")
    return relevant | drawn((id for id in others if id not in relevant), number - len(relevant), seed)
