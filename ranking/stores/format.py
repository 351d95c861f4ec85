"""StoreFormat: which tables a kind of store has, and how its manifest is read and checked."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ranking.stores.files import StoreError, damaged, sha256_of, signed
from ranking.stores.shard import DTYPES, Columns, Shard, Table

MANIFEST, PROGRESS = "manifest.json", "manifest.partial.json"
SPLITS = {"train": 0, "val": 1, "test": 2, None: 255}

Manifest = dict[str, Any]


@dataclass(frozen=True)
class StoreFormat:
    """The format of a store: a folder with tables in shards and one manifest; `feature_dim` 0 means no vectors.

    Args:
        name: The name of the format in the manifest.
        title: The name of the format in messages.
        version: The version of the format.
        tables: The columns of each table.
        fields: The fields of a manifest besides its shards, with their types.
        axes: For each table, the axes other than rows whose sizes each shard records.
        optional: For each table, the columns that a shard may have in addition.
        mapped: Tables so long that even their offsets stay on disk when a store is opened.
    """

    name: str
    title: str
    version: int
    tables: Mapping[str, Columns]
    fields: Mapping[str, Any]
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: Mapping[str, Columns] = field(default_factory=dict)
    mapped: frozenset[str] = frozenset()

    def read_manifest(self, folder: Path, file: str = MANIFEST) -> Manifest:
        """The manifest of a store, checked.

        Raises:
            StoreError: If the manifest is missing, has changed, or is not of this format and version.
        """
        if not (folder / file).is_file():
            raise self._no_store(folder)
        try:
            manifest = json.loads((folder / file).read_text(encoding="utf-8"))
        except ValueError as error:
            raise damaged(folder / file, f"not valid JSON ({error})") from error
        if isinstance(manifest, dict) and not signed(manifest):
            raise damaged(folder / file, "its content has changed: it does not match the sha256 in it")
        if not isinstance(manifest, dict) or manifest.get("format") != self.name:
            cure = f"give the folder of a {self.title}"
            raise StoreError(str(folder / file), f"not the manifest of a {self.title}.", cure=cure)
        if (version := manifest.get("version")) != self.version:
            problem = f"written in version {version!r} of the format; this code reads version {self.version}."
            raise StoreError(str(folder / file), problem, cure="build the store again, or use the code that wrote it")
        try:
            self._check_fields(manifest)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise damaged(folder / file, f"a field is missing or wrong: {error}") from error
        return {name: value for name, value in manifest.items() if name != "sha256"}

    def open_table(self, folder: Path, table: str, manifest: Manifest) -> Table:
        """Map the shards that a manifest lists for a table, each checked against its record."""
        return Table([self.open_shard(folder, table, record, manifest) for record in manifest["shards"][table]])

    def open_shard(self, folder: Path, table: str, record: Mapping[str, Any], manifest: Manifest) -> Shard:
        """Map one shard, checked against its record."""
        sizes = {name: int(record[name]) for name in ("rows", *self.axes.get(table, ()))}
        sizes |= {"depths": len(manifest.get("depths", ())), "dim": manifest["feature_dim"]}
        columns = self.tables[table]
        if not manifest["feature_dim"]:
            columns = {name: column for name, column in columns.items() if name != "features"}
        return Shard(
            folder / record["file"],
            columns,
            dtype=DTYPES[manifest["dtype"]],
            sizes=sizes,
            size=record["bytes"],
            check_offsets=table not in self.mapped,
            optional=self.optional.get(table),
        )

    def _check_fields(self, manifest: Manifest) -> None:
        fields = {"feature_dim": int, **self.fields, "source": dict, "settings": dict}
        if unknown := manifest.keys() - {"format", "version", "dtype", "encoder", "shards", "sha256", *fields}:
            raise ValueError(f"unknown field {min(unknown)!r}")
        for name, kind in fields.items():
            if not isinstance(manifest[name], kind):
                raise ValueError(f"{name} is {manifest[name]!r}")
        if not isinstance(manifest["encoder"], dict | None):
            raise ValueError(f"encoder is {manifest['encoder']!r}")
        if manifest["dtype"] not in DTYPES:
            raise ValueError(f"dtype is {manifest['dtype']!r}, not one of {', '.join(DTYPES)}")
        for table in self.tables:
            for number, record in enumerate(manifest["shards"][table]):
                if record["file"] != shard_name(table, number):
                    raise ValueError(f"shard {number} of {table} is called {record['file']!r}")
                counts = [record[name] for name in ("rows", "bytes", *self.axes.get(table, ()))]
                if not all(isinstance(count, int) and count >= 0 for count in counts) or len(record["sha256"]) != 64:
                    raise ValueError(f"the record of {record['file']} is {record!r}")

    def _no_store(self, folder: Path) -> StoreError:
        folder = folder.absolute()
        partial = folder if folder.suffix == ".partial" else folder.with_name(folder.name + ".partial")
        if partial.is_dir():
            cure = "run the command that was building it again; it continues where it stopped"
            return StoreError(str(folder), f"unfinished: only {partial.name} is there.", cure=cure)
        cure = "build it with: python -m features --config <yaml>"
        if not folder.exists():
            return StoreError(str(folder), f"no such {self.title}.", cure=cure)
        return StoreError(str(folder), f"not a {self.title}: it has no {MANIFEST}.", cure=cure)


def shard_name(table: str, number: int) -> str:
    """The file name of a table's shard."""
    return f"{table}-{number:05d}.safetensors"


def check_hashes(
    folder: Path, records: list[dict[str, Any]], report: Callable[[int], object] = lambda size: None
) -> None:
    """Read these shards and compare them with their hashes; skip missing ones, which other checks report.

    Args:
        folder: The folder of the store.
        records: The manifest's records of the shards.
        report: Called with the size in bytes of each intact shard.

    Raises:
        StoreError: If a shard has changed.
    """
    present = [record for record in records if (folder / record["file"]).is_file()]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(sha256_of, (folder / record["file"] for record in present))
        for record, digest in zip(present, found, strict=True):
            if digest != record["sha256"]:
                raise damaged(folder / record["file"], "its content has changed: the manifest has another sha256")
            report(record["bytes"])


def format_of(folder: str | Path) -> str | None:
    """The name of the format of the store in a folder, finished or not; None if the folder has no manifest."""
    for place in (Path(folder), Path(f"{folder}.partial")):
        for file in (MANIFEST, PROGRESS):
            try:
                found = json.loads((place / file).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(found, dict) and isinstance(found.get("format"), str):
                return found["format"]
    return None
