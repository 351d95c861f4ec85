"""A shard: one safetensors file with some rows of one table of a group store; texts are bytes with offsets."""

import bisect
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from registry import ConfigError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

TABLES: dict[str, dict[str, tuple[torch.dtype | None, tuple[str, ...]]]] = {
    "candidates": {
        "features": (None, ("rows", "depths", "dim")),
        "text": (torch.uint8, ("any",)),
        "text_offsets": (torch.int64, ("rows+1",)),
    },
    "groups": {
        "features": (None, ("rows", "depths", "dim")),
        "text": (torch.uint8, ("any",)),
        "text_offsets": (torch.int64, ("rows+1",)),
        "id": (torch.uint8, ("any",)),
        "id_offsets": (torch.int64, ("rows+1",)),
        "split": (torch.uint8, ("rows",)),
        "offsets": (torch.int64, ("rows+1",)),
        "candidate": (torch.int64, ("slots",)),
        "label": (torch.float32, ("slots",)),
        "valid": (torch.bool, ("slots",)),
        "injected": (torch.bool, ("slots",)),
        "slot_id": (torch.uint8, ("any",)),
        "slot_id_offsets": (torch.int64, ("slots+1",)),
    },
}
"""Each table's tensors: dtype (None: the store's own) and shape; offsets say where each row's bytes or slots begin."""


class StoreError(ConfigError):
    """A store that cannot be read or built: the file, what is wrong with it, and what to do."""


class Shard:
    """The tensors of one shard, mapped from disk: nothing is read until it is used.

    Args:
        path: The safetensors file.
        table: `candidates` or `groups`.
        record: What the manifest says of it: file, rows, slots, bytes, sha256.
        dtype: Of the features.
        depths: How many depths each row holds.
        feature_dim: Size of each vector.

    Raises:
        StoreError: If the file is not what the record says.
    """

    def __init__(
        self, path: Path, table: str, record: Mapping[str, Any], *, dtype: str, depths: int, feature_dim: int
    ) -> None:
        self.path, self.rows, self.slots = path, int(record["rows"]), int(record.get("slots", 0))
        check_size(path, record["bytes"])
        try:
            with safe_open(path, framework="pt") as file:
                self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise damaged(path, f"not a readable safetensors file ({error})") from error
        sizes = {"rows": self.rows, "slots": self.slots, "depths": depths, "dim": feature_dim}
        sizes |= {"rows+1": self.rows + 1, "slots+1": self.slots + 1}
        if self.tensors.keys() != TABLES[table].keys():
            raise damaged(path, f"holds {sorted(self.tensors)} instead of {sorted(TABLES[table])}")
        for name, (expected, axes) in TABLES[table].items():
            found, wanted = self.tensors[name], expected or DTYPES[dtype]
            shape = tuple(sizes.get(axis, found.numel()) for axis in axes)
            if found.dtype != wanted or found.shape != shape:
                problem = f"{name} is {found.dtype} {tuple(found.shape)} where the manifest says {wanted} {shape}"
                raise damaged(path, problem)
        for name in (name for name in self.tensors if name.endswith("offsets")):
            self._check_offsets(name)

    def text(self, name: str, row: int) -> str:
        """One text of a row, such as `text` or `id`."""
        start, end = self.tensors[f"{name}_offsets"][row : row + 2].tolist()
        return bytes(self.tensors[name][start:end].numpy()).decode()

    def _check_offsets(self, name: str) -> None:
        offsets = self.tensors[name]
        end = self.slots if name == "offsets" else len(self.tensors[name.removesuffix("_offsets")])
        if offsets[0] != 0 or offsets[-1] != end or bool((offsets.diff() < 0).any()):
            raise damaged(self.path, f"{name} must rise from 0 to {end}")


class Table:
    """All shards of a table, one after the other, as if they were one.

    Args:
        shards: In the order of their rows.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)
        self.starts = [0, *accumulate(shard.rows for shard in shards)]
        self.slot_starts = [0, *accumulate(shard.slots for shard in shards)]

    def features(self, index: Int[Tensor, " N"], depth: int) -> Float[Tensor, "N D"]:
        """The vectors of these rows: one gather a shard."""
        if len(self.shards) == 1:
            return self.shards[0].tensors["features"][:, depth].index_select(0, index)
        ascending, order = index.sort()
        bounds = torch.searchsorted(ascending, torch.tensor(self.starts)).tolist()
        if bounds[0] > 0 or bounds[-1] < len(index):
            raise IndexError(f"rows {ascending[0]} to {ascending[-1]} of a table of {self.starts[-1]}")
        first = self.shards[0].tensors["features"]
        gathered = first.new_empty(len(index), first.shape[-1])
        for shard, row, place, end in zip(self.shards, self.starts, bounds, bounds[1:], strict=False):
            part, rows = gathered[place:end], ascending[place:end] - row
            torch.index_select(shard.tensors["features"][:, depth], 0, rows, out=part)
        return gathered if torch.equal(index, ascending) else gathered.index_select(0, order.argsort())

    def at(self, row: int) -> tuple[Shard, int]:
        """The shard that holds a row, and its place there."""
        return self._locate(self.starts, row)

    def at_slot(self, slot: int) -> tuple[Shard, int]:
        """The shard that holds a slot, and its place there."""
        return self._locate(self.slot_starts, slot)

    def joined(self, name: str) -> Tensor:
        """A small tensor of all shards in memory; `offsets` count on from shard to shard."""
        parts = [shard.tensors[name] for shard in self.shards]
        if name == "offsets":
            parts = [part[1:] + start for part, start in zip(parts, self.slot_starts, strict=False)]
            parts.insert(0, torch.zeros(1, dtype=torch.int64))
        return torch.cat(parts)

    def _locate(self, starts: list[int], position: int) -> tuple[Shard, int]:
        if not 0 <= position < starts[-1]:
            raise IndexError(f"{position} is not among the {starts[-1]} of the store")
        number = bisect.bisect_right(starts, position) - 1
        return self.shards[number], position - starts[number]


def pack_texts(name: str, texts: Sequence[str]) -> dict[str, Tensor]:
    """Texts as one run of UTF-8 bytes and where each begins."""
    encoded = [text.encode() for text in texts]
    offsets = torch.tensor([0, *accumulate(map(len, encoded))], dtype=torch.int64)
    blob = torch.from_numpy(np.frombuffer(b"".join(encoded), dtype=np.uint8).copy())
    return {name: blob, f"{name}_offsets": offsets}


def write_file(path: Path, content: bytes) -> None:
    """Write all of a file or nothing: a temporary name, flushed to the disk, then renamed.

    Raises:
        StoreError: If the disk refuses, for one because it is full; what was there before stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        cure = "make room or choose another path, then run the same command: it goes on from here"
        problem = f"{len(content):,} bytes could not be written: {error.strerror}."
        raise StoreError(str(path), problem, cure=cure) from error


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_json(document: Mapping[str, Any]) -> bytes:
    """A document as the bytes that are written: the same for the same content."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_size(path: Path, size: int) -> None:
    """Raise if a file is missing or has another size than the manifest says."""
    if not path.is_file():
        raise damaged(path, "missing")
    if (found := path.stat().st_size) != size:
        raise damaged(path, f"{'truncated' if found < size else 'too long'}: {found:,} bytes instead of {size:,}")


def damaged(path: Path, problem: str) -> StoreError:
    """The error for a file of a store that was finished once and is not what it was."""
    cure = f"delete {path.parent} and build it again, or copy it again from where it is whole"
    return StoreError(str(path), f"{problem}.", cure=cure)
