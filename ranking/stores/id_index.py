"""IdIndex: finds rows by the 64-bit hashes of ids, sorted and memory-mapped from disk; keeps no ids in memory."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ranking.stores.shard import Table

BUCKET_ROWS = 1 << 22
"""The approximate number of rows in a bucket; hashes are sorted one bucket at a time."""


class IdIndex:
    """Finds rows of a table by the ids of its rows.

    The first b bits of a hash select one of 2^b buckets. Each bucket is a shard, with its hashes in ascending order.

    Args:
        table: The table with the columns `hash` and `row`.
        id_of: Returns the id of a row, to verify a hit, because different ids can have equal hashes.
    """

    def __init__(self, table: Table, id_of: Callable[[int], str]) -> None:
        self._shards, self._id_of = table.shards, id_of

    def rows_of(self, ids: Sequence[str]) -> Int[Tensor, " n"]:
        """The row of each id, -1 if no row has it."""
        hashes, rows = hash_ids(ids), np.full(len(ids), -1)
        buckets = bucket_of(hashes, len(self._shards))
        for bucket in np.unique(buckets).tolist():
            places = np.flatnonzero(buckets == bucket)
            tensors = self._shards[bucket].tensors
            known, row = tensors["hash"].numpy(), tensors["row"].numpy()
            firsts, ends = (np.searchsorted(known, hashes[places], side) for side in ("left", "right"))
            for place, first, end in zip(places.tolist(), firsts.tolist(), ends.tolist(), strict=True):
                rows[place] = next((at for at in row[first:end].tolist() if self._id_of(at) == ids[place]), -1)
        return torch.from_numpy(rows)


def hash_ids(ids: Sequence[str]) -> NDArray[np.int64]:
    """The first 8 bytes of each id's BLAKE2b, the same on every machine."""
    digests = b"".join([hashlib.blake2b(each.encode(), digest_size=8).digest() for each in ids])
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


def num_buckets(num_rows: int) -> int:
    """The number of buckets for a number of rows: a power of two."""
    return 1 << max(0, (max(num_rows, 1) - 1) // BUCKET_ROWS).bit_length()


def bucket_of(hashes: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    """The bucket of each hash: its first bits, counted from the lowest hash."""
    bits = buckets.bit_length() - 1
    return (hashes >> (64 - bits)) + buckets // 2 if bits else np.zeros_like(hashes)
