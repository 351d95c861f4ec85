"""StoreWriter: builds a store shard by shard; a killed build resumes and ends with the same bytes."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from safetensors.torch import save
from torch import Tensor

from ranking.stores.files import (
    StoreError,
    as_json,
    as_signed_json,
    check_size,
    damaged,
    lock_folder,
    make_folder,
    sha256_of,
    sync_folder,
    write_file,
)
from ranking.stores.format import MANIFEST, PROGRESS, StoreFormat, shard_name
from ranking.stores.shard import DTYPES

W = TypeVar("W", bound="StoreWriter")


class StoreWriter:
    """Writes or continues `<path>.partial/`, and renames it to `<path>` when it is finished.

    A shard counts once the partial manifest lists it with its hash. Each file is written under a temporary name,
    flushed and renamed. So the state on disk always consists of whole shards. Use the writer in a `with` block: leaving
    the block early keeps the finished shards and lets another process continue.

    Args:
        path: The folder of the finished store.
        format: The format of the store.
        dtype: float16, bfloat16 or float32.
        settings: All settings that the content depends on; an unfinished build continues only with equal settings.
        encoder: The description of the encoder, to embed new texts in the same way.
        source: The description of where the texts came from.
        fixed: Fields of the manifest that must stay equal when a build continues.
        counted: Fields of the manifest that grow with each shard.

    Raises:
        StoreError: If the store is already finished, another process is building it, or the unfinished store was made
            with other settings or has changed.
    """

    def __init__(
        self,
        path: str | Path,
        format: StoreFormat,
        *,
        dtype: str,
        settings: Mapping[str, Any],
        encoder: Mapping[str, Any] | None,
        source: Mapping[str, Any] | None,
        fixed: Mapping[str, Any],
        counted: Mapping[str, Any],
    ) -> None:
        if dtype not in DTYPES:
            raise StoreError("dtype", f"no such dtype: {dtype!r}.", given=dtype, known=DTYPES)
        self.path, self._format = Path(path), format
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._fixed = [*fixed, "dtype", "settings", "encoder", "source"]
        self._manifest: dict[str, Any] = {"format": format.name, "version": format.version, **fixed, "dtype": dtype}
        self._manifest |= {**counted, "encoder": dict(encoder) if encoder else None, "source": dict(source or {})}
        self._manifest |= {"settings": dict(settings), "shards": {name: [] for name in format.tables}}
        self._manifest = json.loads(as_json(self._manifest))
        self._lock = self._guard()
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    def finish(self) -> Path:
        """Finish the store and rename it to its path; nothing can be added after that.

        Raises:
            StoreError: If the path exists by now.
        """
        if self.path.exists():
            raise _finished(self.path)
        (self.partial / PROGRESS).replace(self.partial / MANIFEST)
        sync_folder(self.partial)
        self.partial.rename(self.path)
        sync_folder(self.path.parent)
        self.close()
        return self.path

    def close(self) -> None:
        """Release the build, so that another process can continue it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self: W) -> W:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _guard(self) -> int:
        """Lock the folder of the build."""
        if self.path.exists():
            raise _finished(self.path)
        make_folder(self.partial, "set features.path to a folder that you may write to, or work in another folder")
        lock = lock_folder(self.partial)
        if lock is None:
            cure = "wait until it is done, or give another path"
            raise StoreError(str(self.partial), "another process is building this store.", cure=cure)
        return lock

    def _resume(self) -> None:
        if (self.partial / MANIFEST).exists():
            (self.partial / MANIFEST).replace(self.partial / PROGRESS)
        if not (self.partial / PROGRESS).exists():
            if foreign := [file.name for file in self.partial.iterdir() if not file.name.startswith(PROGRESS)]:
                cure = f"delete {self.partial} or give another path"
                raise StoreError(str(self.partial), f"not an unfinished store, but it has {foreign[0]}.", cure=cure)
            self._save()
            return
        found = self._format.read_manifest(self.partial, PROGRESS)
        check_settings(self.partial, {name: found[name] for name in self._fixed}, self._manifest)
        records = [record for table in self._format.tables for record in found["shards"][table]]
        for record in records:
            check_size(self.partial / record["file"], record["bytes"])
            if sha256_of(self.partial / record["file"]) != record["sha256"]:
                raise damaged(self.partial / record["file"], "it has changed since it was written: its sha256 differs")
        self._manifest = found
        keep = {PROGRESS, *(record["file"] for record in records), *self._unlisted()}
        for file in self.partial.iterdir():
            if file.name not in keep and file.name.endswith((".tmp", ".safetensors")):
                file.unlink()

    def _unlisted(self) -> set[str]:
        """Files to keep although the manifest does not list them."""
        return set()

    def _write(self, table: str, tensors: dict[str, Tensor], **counts: int) -> None:
        """Write the next shard of a table; `counts` has its number of rows and the other counts of the format."""
        number = len(self._manifest["shards"][table])
        self._add(table, write_shard(self.partial, table, number, tensors, **counts))

    def _add(self, table: str, record: dict[str, Any]) -> None:
        """Add a shard on disk to the partial manifest."""
        self._manifest["shards"][table].append(record)
        for name, count in {table: record["rows"], **record}.items():
            if f"num_{name}" in self._manifest:
                self._manifest[f"num_{name}"] += count
        self._save()

    def _save(self) -> None:
        write_file(self.partial / PROGRESS, as_signed_json(self._manifest))

    def _stored(self, features: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
        return stored(features, shape, self._manifest["dtype"], what, self.partial)


def write_shard(folder: Path, table: str, number: int, tensors: dict[str, Tensor], **counts: int) -> dict[str, Any]:
    """Write the file of a shard; return its record for the manifest."""
    content = save(tensors)
    others = {name: count for name, count in counts.items() if name != "rows"}
    record = {"file": shard_name(table, number), "rows": counts["rows"], "bytes": len(content), **others}
    record |= {"sha256": hashlib.sha256(content).hexdigest()}
    write_file(folder / record["file"], content)
    return record


def stored(features: Tensor, shape: tuple[int, ...], dtype: str, what: str, folder: Path) -> Tensor:
    """Convert vectors to the dtype of the store.

    Raises:
        ValueError: If the vectors do not have this shape.
        StoreError: If a vector is not finite in this dtype.
    """
    if features.shape != shape:
        raise ValueError(f"{what} features are {tuple(features.shape)}, expected {shape}")
    made = features.to("cpu", DTYPES[dtype]).contiguous()
    if not bool(made.isfinite().all()):
        row = int((~made.isfinite()).flatten(1).any(1).nonzero()[0])
        value = features[row].cpu()[~made[row].isfinite()].flatten()[0].item()
        problem = f"the vector of {what} {row} of this shard has {value:g} in it, as {dtype}."
        cure = "set dtype to float32 or bfloat16 for larger values; if it is inf or nan, check the encoder or source"
        raise StoreError(str(folder), problem, cure=cure)
    return made


def check_settings(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare the settings that a store was made with to the present ones.

    Raises:
        StoreError: If they differ; names the setting and both values.
    """
    for name, value in found.items():
        if value != wanted.get(name):
            problem = f"made with another {_difference(name, value, wanted.get(name))}."
            raise StoreError(str(path), problem, cure=f"give another path, or delete {path} to build it again")


def _difference(name: str, found: Any, wanted: Any) -> str:
    """Where two settings differ, such as `encoder.max_length: 128, now 256`."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next(key for key in [*found, *wanted] if found.get(key) != wanted.get(key))
        return _difference(f"{name}.{key}", found.get(key), wanted.get(key))
    return f"{name}: {found!r}, now {wanted!r}"


def _finished(path: Path) -> StoreError:
    cure = "use it as it is, give another path, or delete it to build it again"
    return StoreError(str(path), "already exists, and a finished store is never overwritten.", cure=cure)
