"""Shard: one safetensors file with some rows of one table of a store; texts are bytes with offsets."""

import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ranking.stores.files import check_size, damaged
from ranking.texts import check_texts

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

Columns = Mapping[str, tuple[torch.dtype | None, tuple[str, ...]]]
"""The columns of a table: dtype (None for the store's dtype) and axes. `rows+1` is the number of rows plus one, `any`
may have any size. Offsets are the positions where each row's bytes or entries begin."""


class Shard:
    """The tensors of one shard, memory-mapped: data is read only when it is used.

    Args:
        path: The safetensors file.
        columns: The columns that the file must have.
        optional: The columns that the file may have in addition.
        dtype: Number format of the features.
        sizes: Size of each axis.
        size: Size of the file in bytes.
        check_offsets: Whether to check all offsets now; reading a text checks its offsets again.

    Raises:
        StoreError: If the file does not match these arguments.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        *,
        dtype: torch.dtype,
        sizes: Mapping[str, int],
        size: int,
        check_offsets: bool = True,
        optional: Columns | None = None,
    ) -> None:
        self.path, self.sizes = path, sizes
        possible = {**columns, **(optional or {})}
        check_size(path, size)
        try:
            with safe_open(path, framework="pt") as file:
                self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise damaged(path, f"not a readable safetensors file ({error})") from error
        if not columns.keys() <= self.tensors.keys() <= possible.keys():
            raise damaged(path, f"holds {sorted(self.tensors)} instead of {sorted(columns)}")
        for name, found in self.tensors.items():
            expected, axes = possible[name]
            wanted = expected or dtype
            shape = tuple(self._size(axis, found) for axis in axes)
            if found.dtype != wanted or found.shape != shape:
                problem = f"{name} is {found.dtype} {tuple(found.shape)} where the manifest says {wanted} {shape}"
                raise damaged(path, problem)
        if check_offsets:
            for name in (name for name in self.tensors if name.endswith("offsets")):
                self._check_offsets(name)

    def features(self, depth: int | None) -> Float[Tensor, "N D"]:
        """The vectors of all rows, without a copy; at one depth if each row has several."""
        stored = self.tensors["features"]
        return stored if depth is None else stored[:, depth]

    def text(self, name: str, row: int) -> str:
        """One text of a row, such as `text` or `id`."""
        start, end = self.tensors[f"{name}_offsets"][row : row + 2].tolist()
        content = self.tensors[name]
        if not 0 <= start <= end <= len(content):
            raise damaged(self.path, f"{name} {row} goes from byte {start} to {end} of {len(content)}")
        try:
            return bytes(content[start:end].numpy()).decode()
        except UnicodeDecodeError as error:
            raise damaged(self.path, f"{name} {row} is not UTF-8 ({error.reason} at byte {error.start})") from error

    def _size(self, axis: str, found: Tensor) -> int:
        name, plus, more = axis.partition("+")
        return self.sizes[name] + int(more) if plus else self.sizes.get(name, found.numel())

    def _check_offsets(self, name: str) -> None:
        offsets = self.tensors[name]
        end = self.sizes["slots"] if name == "offsets" else len(self.tensors[name.removesuffix("_offsets")])
        if offsets[0] != 0 or offsets[-1] != end or bool((offsets.diff() < 0).any()):
            raise damaged(self.path, f"{name} must rise from 0 to {end}")


class Table:
    """All shards of a table, concatenated.

    Args:
        shards: The shards, in the order of their rows.
        axis: The axis that positions count: rows, or another axis that continues from shard to shard.
    """

    def __init__(self, shards: Sequence[Shard], axis: str = "rows") -> None:
        self.shards = list(shards)
        self.starts = [0, *accumulate(shard.sizes[axis] for shard in shards)]
        self._bounds = torch.tensor(self.starts)

    def __len__(self) -> int:
        return self.starts[-1]

    def features(self, index: Int[Tensor, " N"], depth: int | None = None) -> Float[Tensor, "N D"]:
        """The vectors of these rows; one gather per shard."""
        if len(self.shards) == 1:
            return self.shards[0].features(depth).index_select(0, index)
        ascending, order = index.sort()
        bounds = torch.searchsorted(ascending, self._bounds)
        if int(bounds[0]) > 0 or int(bounds[-1]) < len(index):
            raise IndexError(f"rows {ascending[0]} to {ascending[-1]} of a table of {self.starts[-1]}")
        first = self.shards[0].tensors["features"]
        gathered = first.new_empty(len(index), first.shape[-1])
        used = bounds.diff().nonzero().flatten()
        for number, place, end in zip(used.tolist(), bounds[used].tolist(), bounds[used + 1].tolist(), strict=True):
            rows = ascending[place:end] - self.starts[number]
            torch.index_select(self.shards[number].features(depth), 0, rows, out=gathered[place:end])
        return gathered if torch.equal(index, ascending) else gathered.index_select(0, order.argsort())

    def at(self, position: int) -> tuple[Shard, int]:
        """The shard that has a position, and the position within this shard."""
        if not 0 <= position < self.starts[-1]:
            raise IndexError(f"position {position} of a table of {self.starts[-1]}")
        number = bisect.bisect_right(self.starts, position) - 1
        return self.shards[number], position - self.starts[number]

    def text(self, name: str, position: int) -> str:
        """One text of a row, such as `text` or `id`."""
        shard, place = self.at(position)
        return shard.text(name, place)

    def has(self, name: str) -> bool:
        """Whether every shard has this column."""
        return all(name in shard.tensors for shard in self.shards)

    def joined(self, name: str) -> Tensor:
        """A small column of all shards, read into memory; offsets continue from shard to shard."""
        parts = [shard.tensors[name] for shard in self.shards]
        if name.endswith("offsets"):
            starts = accumulate((int(part[-1]) for part in parts), initial=0)
            parts = [part[1:] + start for part, start in zip(parts, starts, strict=False)]
            parts.insert(0, torch.zeros(1, dtype=torch.int64))
        return torch.cat(parts)


def pack_texts(name: str, texts: Sequence[str]) -> dict[str, Tensor]:
    """Texts as concatenated UTF-8 bytes, with the offset of each text."""
    check_texts(name, texts)
    encoded = [text.encode() for text in texts]
    offsets = torch.tensor([0, *accumulate(map(len, encoded))], dtype=torch.int64)
    blob = torch.from_numpy(np.frombuffer(b"".join(encoded), dtype=np.uint8).copy())
    return {name: blob, f"{name}_offsets": offsets}
