"""Seeds: numbers that depend only on a seed, a query, and the number of a response to the query."""

import hashlib


def seed_of(seed: int, query_id: str, number: int, num_bytes: int) -> int:
    """A number of `num_bytes` bytes.

    >>> seed_of(0, "q", 3, 4) == seed_of(0, "q", 3, 4) != seed_of(0, "q", 4, 4)
    True
    """
    key = hashlib.blake2b(f"{seed} {number} {query_id}".encode(), digest_size=num_bytes).digest()
    return int.from_bytes(key, "little")


def request_seed(seed: int, query_id: str, number: int) -> int:
    """A seed for a request to an engine or a server, which accept 31 bits.

    >>> 0 <= request_seed(0, "q", 3) < 2**31
    True
    """
    return seed_of(seed, query_id, number, 4) >> 1
