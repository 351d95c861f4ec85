"""GroupStore: queries with their candidates, features, labels and texts, on disk and mapped from there.

A store is a folder of two tables in shards and a manifest. `candidates` holds each candidate's vectors and text once,
however many groups share it. `groups` holds each query's vectors, text, id and split, and its slots: which candidate,
its label, whether it may be used, whether it was injected, and its id.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ranking.group_shard import DTYPES, TABLES, Shard, StoreError, Table, damaged, sha256_of

FORMAT, VERSION = "group_store", 1
MANIFEST, PROGRESS = "manifest.json", "manifest.partial.json"
SPLITS = {"train": 0, "val": 1, "test": 2, None: 255}

S = TypeVar("S", bound="GroupStore")


class GroupStore:
    """A finished store, open for reading. G groups have S slots in all, n vectors are read at a time, D long.

    Args:
        path: Its folder.
        manifest: Its checked manifest.
        candidates: The table of candidates.
        groups: The table of groups.

    Attributes:
        offsets: Where each group's slots begin; group g has slots offsets[g] to offsets[g + 1].
        candidate: Row of the candidate in each slot.
        label: Relevance of each slot; nan where it is unlabelled.
        valid: Whether a slot's candidate may be used.
        injected: Whether it is a relevant candidate that retrieval missed: shown in training, never in evaluation.
        split: 0 train, 1 val, 2 test, 255 where the source does not say.
    """

    offsets: Int[Tensor, " G+1"]
    candidate: Int[Tensor, " S"]
    label: Float[Tensor, " S"]
    valid: Bool[Tensor, " S"]
    injected: Bool[Tensor, " S"]
    split: UInt8[Tensor, " G"]

    def __init__(self, path: Path, manifest: dict[str, Any], candidates: Table, groups: Table) -> None:
        self.path, self.manifest = path, manifest
        self.feature_dim: int = manifest["feature_dim"]
        self.depths: list[float | None] = manifest["depths"]
        self.dtype = DTYPES[manifest["dtype"]]
        self.encoder: dict[str, Any] | None = manifest["encoder"]
        self.num_groups, self.num_candidates = groups.starts[-1], candidates.starts[-1]
        self.num_slots = groups.slot_starts[-1]
        self._candidates, self._groups = candidates, groups
        for name in ("offsets", "candidate", "label", "valid", "injected", "split"):
            setattr(self, name, groups.joined(name))

    @classmethod
    def open(cls: type[S], path: str | Path, verify: bool = False) -> S:
        """Open a store; its small tensors are read and checked, its features and texts stay on disk.

        Args:
            path: The folder.
            verify: Whether to read everything and compare it with the manifest's hashes.

        Raises:
            StoreError: If it is missing, unfinished, damaged or foreign; names the file, the fault and the cure.
        """
        path = Path(path)
        manifest = read_manifest(path)
        tables = {}
        for name in TABLES:
            records = manifest["shards"][name]
            if not records and name == "groups":
                raise damaged(path / MANIFEST, "lists no shard of groups")
            if verify:
                _check_hashes(path, records)
            tables[name] = Table(open_shards(path, name, records, manifest))
        store = cls(path, manifest, **tables)
        store._check()
        return store

    def query_features(self, index: Int[Tensor, " N"], depth: int = 0) -> Float[Tensor, "N D"]:
        """The queries' vectors of these groups, in the stored dtype; `depth` counts in `depths`."""
        return self._groups.features(index, depth)

    def candidate_features(self, index: Int[Tensor, " N"], depth: int = 0) -> Float[Tensor, "N D"]:
        """The vectors of these candidates, in the stored dtype; `depth` counts in `depths`."""
        return self._candidates.features(index, depth)

    def query_text(self, group: int) -> str:
        """The text of a group's query."""
        return _text(self._groups.at(group), "text")

    def query_id(self, group: int) -> str:
        """The id of a group's query."""
        return _text(self._groups.at(group), "id")

    def candidate_text(self, row: int) -> str:
        """The text of a candidate, by its row as in `candidate`."""
        return _text(self._candidates.at(row), "text")

    def slot_id(self, slot: int) -> str:
        """The id that the candidate in a slot has within its group."""
        return _text(self._groups.at_slot(slot), "slot_id")

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the files anew: a pickled map would be a copy of the features.
        return type(self).open, (self.path,)

    def __repr__(self) -> str:
        counts = f"{self.num_groups:,} groups, {self.num_candidates:,} candidates, {self.num_slots:,} slots"
        return f"GroupStore({str(self.path)!r}: {counts}, {self.feature_dim} x {self.manifest['dtype']})"

    def _check(self) -> None:
        for name in ("num_groups", "num_candidates", "num_slots"):
            if self.manifest[name] != getattr(self, name):
                problem = f"{name} is {self.manifest[name]!r}, but the shards have {getattr(self, name)}"
                raise damaged(self.path / MANIFEST, problem)
        outside = (self.candidate < 0) | (self.candidate >= self.num_candidates)
        if bool(outside.any()):
            slot = int(outside.nonzero()[0])
            problem = f"slot {slot} names candidate {int(self.candidate[slot])} of {self.num_candidates}"
            raise damaged(self._groups.at_slot(slot)[0].path, problem)
        unknown = ~torch.isin(self.split, torch.tensor(list(SPLITS.values()), dtype=torch.uint8))
        if bool(unknown.any()):
            group = int(unknown.nonzero()[0])
            problem = f"split of group {group} is {int(self.split[group])}, not 0, 1, 2 or 255"
            raise damaged(self._groups.at(group)[0].path, problem)


def open_shards(folder: Path, table: str, records: list[dict[str, Any]], manifest: dict[str, Any]) -> list[Shard]:
    """Map the shards that a manifest lists for a table, each checked against its record."""
    layout = {"dtype": manifest["dtype"], "depths": len(manifest["depths"]), "feature_dim": manifest["feature_dim"]}
    return [Shard(folder / record["file"], table, record, **layout) for record in records]


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """The manifest of a store, checked.

    Raises:
        StoreError: If there is none, or it is not a manifest of this format and version.
    """
    if not (folder / name).is_file():
        raise _no_store(folder)
    try:
        manifest = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(folder / name, f"not valid JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(str(folder / name), "not the manifest of a group store.", cure="give the folder of one")
    if manifest.get("version") != VERSION:
        problem = f"written in version {manifest.get('version')!r} of the format; this code reads version {VERSION}."
        raise StoreError(str(folder / name), problem, cure="build the store again, or use the code that wrote it")
    try:
        _check_fields(manifest)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(folder / name, f"a field is missing or wrong: {error}") from error
    return manifest


def _check_fields(manifest: dict[str, Any]) -> None:
    wanted = {"feature_dim": int, "depths": list, "num_groups": int, "num_candidates": int, "num_slots": int}
    for name, kind in (wanted | {"source": dict, "settings": dict, "encoder": dict | None}).items():
        if not isinstance(manifest[name], kind):
            raise ValueError(f"{name} is {manifest[name]!r}")
    if manifest["dtype"] not in DTYPES:
        raise ValueError(f"dtype is {manifest['dtype']!r}, not one of {', '.join(DTYPES)}")
    for table in TABLES:
        for number, record in enumerate(manifest["shards"][table]):
            if record["file"] != shard_name(table, number):
                raise ValueError(f"shard {number} of {table} is called {record['file']!r}")
            counts = (record["rows"], record["bytes"], record.get("slots", 0))
            if not all(isinstance(count, int) and count >= 0 for count in counts) or len(record["sha256"]) != 64:
                raise ValueError(f"the record of {record['file']} is {record!r}")


def _text(place: tuple[Shard, int], name: str) -> str:
    shard, row = place
    return shard.text(name, row)


def shard_name(table: str, number: int) -> str:
    """The file of a table's shard."""
    return f"{table}-{number:05d}.safetensors"


def _check_hashes(folder: Path, records: list[dict[str, Any]]) -> None:
    present = [record for record in records if (folder / record["file"]).is_file()]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(sha256_of, (folder / record["file"] for record in present))
        for record, digest in zip(present, found, strict=True):
            if digest != record["sha256"]:
                raise damaged(folder / record["file"], "its sha256 is not the manifest's: its content has changed")


def _no_store(folder: Path) -> StoreError:
    folder = folder.absolute()
    partial = folder if folder.suffix == ".partial" else folder.with_name(folder.name + ".partial")
    if partial.is_dir():
        cure = "run the command that was building it once more: it goes on where it stopped"
        return StoreError(str(folder), f"unfinished: only {partial.name} is there.", cure=cure)
    cure = "build it with: python -m features --config <yaml>"
    if not folder.exists():
        return StoreError(str(folder), "no such group store.", cure=cure)
    return StoreError(str(folder), f"not a group store: it has no {MANIFEST}.", cure=cure)
