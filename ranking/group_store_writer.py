"""GroupStoreWriter: builds a group store shard by shard; killed anywhere, it goes on and ends with the same bytes."""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save
from torch import Tensor

from ranking.group_shard import (
    DTYPES,
    TABLES,
    StoreError,
    as_json,
    check_size,
    damaged,
    pack_texts,
    sha256_of,
    sync_folder,
    write_file,
)
from ranking.group_store import (
    FORMAT,
    MANIFEST,
    PROGRESS,
    SPLITS,
    VERSION,
    Table,
    open_shards,
    read_manifest,
    shard_name,
)

W = TypeVar("W", bound="GroupStoreWriter")


class GroupStoreWriter:
    """Writes `<path>.partial/`, or goes on with it, and renames it to `<path>` when it is finished.

    A shard counts once the partial manifest lists it, with its hash; each step is a file under a temporary name,
    flushed and renamed. So the state on disk is always the one after some whole number of `add_` calls. Use it in a
    `with` block: leaving it early keeps what is done and lets others go on.

    Args:
        path: The folder of the finished store.
        feature_dim: Size D of each vector.
        depths: The fraction of layers each of the L vectors of a row was taken at; `[None]` for a plain embedding.
        dtype: float16, bfloat16 or float32.
        settings: All that the content depends on; a build goes on only with the same ones.
        encoder: What is needed to embed new texts in the same way.
        source: Where the texts came from.

    Raises:
        StoreError: If the store is finished already, another process is building it, or what is there was made with
            other settings or has been changed since.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        feature_dim: int,
        depths: Sequence[float | None],
        dtype: str,
        settings: Mapping[str, Any],
        encoder: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise StoreError("dtype", f"no such dtype: {dtype!r}.", given=dtype, known=DTYPES)
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "feature_dim": feature_dim}
        self._manifest |= {"depths": list(depths), "dtype": dtype}
        self._manifest |= {"num_groups": 0, "num_candidates": 0, "num_slots": 0}
        self._manifest |= {"encoder": dict(encoder) if encoder else None, "source": dict(source or {})}
        self._manifest |= {"settings": dict(settings), "shards": {name: [] for name in TABLES}}
        self._manifest = json.loads(as_json(self._manifest))
        self._lock = self._guard()
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    @property
    def num_groups(self) -> int:
        """Groups that are safely on disk."""
        return self._manifest["num_groups"]

    @property
    def num_candidates(self) -> int:
        """Candidates that are safely on disk."""
        return self._manifest["num_candidates"]

    def candidates(self) -> Table:
        """The candidates written so far, mapped: to search among them before groups are made."""
        return Table(open_shards(self.partial, "candidates", self._manifest["shards"]["candidates"], self._manifest))

    def add_candidates(self, features: Float[Tensor, "N L D"], texts: Sequence[str]) -> int:
        """Write one shard of candidates.

        Returns:
            The row of the first one.
        """
        tensors = {"features": self._stored(features, len(texts), "candidate"), **pack_texts("text", texts)}
        first = self.num_candidates
        self._write("candidates", tensors, rows=len(texts))
        return first

    def add_groups(
        self,
        *,
        ids: Sequence[str],
        texts: Sequence[str],
        features: Float[Tensor, "G L D"],
        offsets: Int[Tensor, " G+1"],
        candidate: Int[Tensor, " S"],
        label: Float[Tensor, " S"],
        slot_ids: Sequence[str],
        valid: Bool[Tensor, " S"] | None = None,
        injected: Bool[Tensor, " S"] | None = None,
        split: Sequence[str | None] | None = None,
    ) -> None:
        """Write one shard of groups; their candidates must have been added before.

        Args:
            ids: Of the queries.
            texts: Of the queries.
            features: Of the queries.
            offsets: Where each group's slots begin, from 0.
            candidate: Each slot's row, as counted by `add_candidates`.
            label: Relevance, higher is better; nan where unlabelled.
            slot_ids: Each candidate's id in its group.
            valid: Whether each may be used; all by default.
            injected: Whether each is a relevant one that retrieval missed; none by default.
            split: `train`, `val`, `test` or None for each group.

        Raises:
            ValueError: If the sizes do not agree, a vector is not finite, a label is infinite or a row does not exist.
        """
        num_groups, num_slots = len(ids), len(slot_ids)
        valid = torch.ones(num_slots, dtype=torch.bool) if valid is None else valid
        injected = torch.zeros(num_slots, dtype=torch.bool) if injected is None else injected
        split = [None] * num_groups if split is None else split
        group_sizes = {len(texts), len(split), len(offsets) - 1}
        slot_sizes = {len(candidate), len(label), len(valid), len(injected), int(offsets[-1])}
        if group_sizes != {num_groups} or slot_sizes != {num_slots}:
            raise ValueError(f"{num_groups} groups with {num_slots} slots do not fit the other sizes")
        if int(offsets[0]) != 0 or bool((offsets.diff() < 0).any()):
            raise ValueError(f"offsets do not fit: they must rise from 0, got {offsets.tolist()[:8]} ...")
        if bool(((candidate < 0) | (candidate >= self.num_candidates)).any()):
            raise ValueError(f"a slot names a candidate outside the {self.num_candidates} that were added")
        if bool(label.isinf().any()):
            raise ValueError(f"an infinite label, in slot {int(label.isinf().nonzero()[0])}")
        if unknown := set(split).difference(SPLITS):
            raise ValueError(f"no such split: {unknown}; there are train, val, test and None")
        tensors = {
            "features": self._stored(features, num_groups, "query"),
            "split": torch.tensor([SPLITS[name] for name in split], dtype=torch.uint8),
            "offsets": offsets.to(torch.int64).contiguous(),
            "candidate": candidate.to(torch.int64).contiguous(),
            "label": label.to(torch.float32).contiguous(),
            "valid": valid.contiguous(),
            "injected": injected.contiguous(),
            **pack_texts("text", texts),
            **pack_texts("id", ids),
            **pack_texts("slot_id", slot_ids),
        }
        self._write("groups", tensors, rows=num_groups, slots=num_slots)

    def finish(self) -> Path:
        """Give the store its name; nothing can be added after that.

        Raises:
            StoreError: If there is no group in it, or the name has been taken meanwhile.
        """
        if not self.num_groups:
            raise StoreError(str(self.partial), "no group was written.", cure="give a source that has some")
        if self.path.exists():
            raise _finished(self.path)
        (self.partial / PROGRESS).replace(self.partial / MANIFEST)
        sync_folder(self.partial)
        self.partial.rename(self.path)
        sync_folder(self.path.parent)
        self.close()
        return self.path

    def close(self) -> None:
        """Let another process go on with the build."""
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
        """A lock on the folder itself, so that nothing is left behind when this process is killed."""
        if self.path.exists():
            raise _finished(self.path)
        self.partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino != self.partial.stat().st_ino:
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            os.close(lock)
            cure = "wait until it is done, or give another path"
            raise StoreError(str(self.partial), "another process is building this store.", cure=cure) from error
        return lock

    def _resume(self) -> None:
        if (self.partial / MANIFEST).exists():
            (self.partial / MANIFEST).replace(self.partial / PROGRESS)
        if not (self.partial / PROGRESS).exists():
            if foreign := [file.name for file in self.partial.iterdir() if not file.name.startswith(PROGRESS)]:
                cure = f"delete {self.partial} or give another path"
                raise StoreError(str(self.partial), f"not a build of a store, yet holds {foreign[0]}.", cure=cure)
            self._save()
            return
        found = read_manifest(self.partial, PROGRESS)
        names = ("feature_dim", "depths", "dtype", "settings", "encoder", "source")
        check_settings(self.partial, {name: found[name] for name in names}, self._manifest)
        records = [record for table in TABLES for record in found["shards"][table]]
        for record in records:
            check_size(self.partial / record["file"], record["bytes"])
            if sha256_of(self.partial / record["file"]) != record["sha256"]:
                raise damaged(self.partial / record["file"], "its sha256 is not the one it was written with")
        keep = {PROGRESS, *(record["file"] for record in records)}
        for file in self.partial.iterdir():
            if file.name not in keep and file.name.endswith((".tmp", ".safetensors")):
                file.unlink()
        self._manifest = found

    def _write(self, table: str, tensors: dict[str, Tensor], *, rows: int, slots: int = 0) -> None:
        records = self._manifest["shards"][table]
        content = save(tensors)
        record = {"file": shard_name(table, len(records)), "rows": rows, "bytes": len(content)}
        record |= {"slots": slots} if table == "groups" else {}
        record |= {"sha256": hashlib.sha256(content).hexdigest()}
        write_file(self.partial / record["file"], content)
        records.append(record)
        self._manifest[f"num_{table}"] += rows
        self._manifest["num_slots"] += slots
        self._save()

    def _save(self) -> None:
        write_file(self.partial / PROGRESS, as_json(self._manifest))

    def _stored(self, features: Tensor, rows: int, what: str) -> Tensor:
        shape = (rows, len(self._manifest["depths"]), self._manifest["feature_dim"])
        if features.shape != shape:
            raise ValueError(f"{what} features are {tuple(features.shape)}, expected {shape}")
        stored = features.to("cpu", DTYPES[self._manifest["dtype"]]).contiguous()
        if not bool(stored.isfinite().all()):
            row = int((~stored.isfinite()).flatten(1).any(1).nonzero()[0])
            value = features[row].cpu()[~stored[row].isfinite()].flatten()[0].item()
            problem = f"the vector of {what} {row} of this shard has {value:g} in it, as {self._manifest['dtype']}."
            cure = "dtype: float32 or bfloat16 holds larger values; find out where others come from"
            raise StoreError(str(self.partial), problem, cure=cure)
        return stored


def check_settings(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare what a store was made with to what is asked for now.

    Raises:
        StoreError: If they differ; it names the setting and both values.
    """
    for name, value in found.items():
        if value != wanted.get(name):
            problem = f"made with another {_difference(name, value, wanted.get(name))}."
            raise StoreError(str(path), problem, cure=f"give another path, or delete {path} to build it anew")


def _difference(name: str, found: Any, wanted: Any) -> str:
    """Where two settings differ, as `encoder.max_length: 128, now 256`."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next(key for key in [*found, *wanted] if found.get(key) != wanted.get(key))
        return _difference(f"{name}.{key}", found.get(key), wanted.get(key))
    return f"{name}: {found!r}, now {wanted!r}"


def _finished(path: Path) -> StoreError:
    cure = "use it as it is, give another path, or delete it to build it again"
    return StoreError(str(path), "already there, and a finished store is never overwritten.", cure=cure)
