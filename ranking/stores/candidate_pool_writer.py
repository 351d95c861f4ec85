"""CandidatePoolWriter: builds a candidate pool shard by shard, candidates first, then queries."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ranking.stores.candidate_pool import POOL
from ranking.stores.files import StoreError, as_signed_json, check_size, damaged, sha256_of, signed, write_file
from ranking.stores.format import SPLITS, shard_name
from ranking.stores.id_index import IdIndex, bucket_of, hash_ids, num_buckets
from ranking.stores.shard import Table, pack_texts
from ranking.stores.writer import StoreWriter, stored, write_shard


@dataclass(frozen=True)
class CandidateShards:
    """Writes shards of candidates into the folder of a build, from any process.

    Args:
        folder: The folder of the build.
        feature_dim: Size D of each vector; 0 for a pool without vectors.
        dtype: Number format of the stored vectors.
    """

    folder: Path
    feature_dim: int
    dtype: str

    def write(
        self, number: int, ids: Sequence[str], texts: Sequence[str], features: Float[Tensor, "N D"], cut: int = 0
    ) -> dict[str, Any]:
        """Write a shard; return its record for the manifest."""
        if len(ids) != len(texts):
            raise ValueError(f"there are {len(ids)} ids, but {len(texts)} texts")
        vectors = stored(features, (len(ids), self.feature_dim), self.dtype, "candidate", self.folder)
        tensors = {**pack_texts("id", ids), **pack_texts("text", texts)}
        if self.feature_dim:
            tensors["features"] = vectors
        tensors |= {"id_hash": torch.from_numpy(hash_ids(ids))}
        unit = _all_of_length_one(vectors)
        return write_shard(self.folder, "candidates", number, tensors, rows=len(ids), cut=cut, unit=unit)

    def write_apart(
        self, number: int, ids: Sequence[str], texts: Sequence[str], features: Float[Tensor, "N D"], cut: int = 0
    ) -> None:
        """Write a shard and its record in a file beside it, so that the writer can list it later."""
        record = self.write(number, ids, texts, features, cut)
        write_file(self._record(number), as_signed_json({"shard": record}))

    def apart(self) -> dict[int, dict[str, Any]]:
        """The records of shards that the manifest does not list yet, by number.

        Raises:
            StoreError: If a record has changed since it was written.
        """
        files = sorted(self.folder.glob("candidates-*.json"))
        return {int(file.stem.rpartition("-")[2]): _read_record(file) for file in files}

    def forget(self, number: int) -> None:
        """Remove the record of a shard that the manifest lists now."""
        self._record(number).unlink()

    def _record(self, number: int) -> Path:
        return (self.folder / shard_name("candidates", number)).with_suffix(".json")


class CandidatePoolWriter(StoreWriter):
    """Writes candidates, then queries; each `add_` call takes effect on disk as a whole or not at all.

    Args:
        path: The folder of the finished pool.
        feature_dim: Size D of each vector; 0 for a pool without vectors.
        dtype: float16, bfloat16 or float32.
        settings: All settings that the content depends on; an unfinished build continues only with equal settings.
        encoder: The description of the encoder, to embed new texts in the same way.
        source: The description of where the texts came from.

    Raises:
        StoreError: If the pool is already finished, another process is building it, or the unfinished pool was made
            with other settings or has changed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        feature_dim: int,
        dtype: str,
        settings: Mapping[str, Any],
        encoder: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        counts = dict.fromkeys(("num_candidates", "num_queries", "num_relevant", "num_history", "num_own"), 0)
        self._tables: dict[str, Table] = {}
        super().__init__(
            path,
            POOL,
            dtype=dtype,
            settings=settings,
            encoder=encoder,
            source=source,
            fixed={"feature_dim": feature_dim},
            counted={"normalized": True, **counts},
        )

    @property
    def num_candidates(self) -> int:
        """Number of candidates that are safely on disk, up to the first missing shard."""
        return self._manifest["num_candidates"]

    @property
    def num_queries(self) -> int:
        """Number of queries that are safely on disk."""
        return self._manifest["num_queries"]

    @property
    def shards(self) -> CandidateShards:
        """A writer of candidate shards that also works in other processes; `collect` lists its shards."""
        return CandidateShards(self.partial, self._manifest["feature_dim"], self._manifest["dtype"])

    @property
    def candidate_shards(self) -> set[int]:
        """The numbers of the candidate shards that are safely on disk."""
        return {*range(len(self._manifest["shards"]["candidates"])), *self.shards.apart()}

    def add_candidates(
        self, ids: Sequence[str], texts: Sequence[str], features: Float[Tensor, "N D"], cut: int = 0
    ) -> int:
        """Write one shard of candidates.

        Args:
            ids: Ids of the candidates, unique in the pool; this is checked after all candidates were added.
            texts: Texts of the candidates, as rankers read them.
            features: Vectors of the candidates.
            cut: How many of the texts were too long for the encoder.

        Returns:
            The row of the first candidate.

        Raises:
            StoreError: If a vector is not finite.
        """
        if self._manifest["shards"]["index"]:
            raise ValueError("candidates cannot be added after queries were added or ids were looked up")
        self.collect()
        first = self.num_candidates
        number = len(self._manifest["shards"]["candidates"])
        self._add("candidates", self.shards.write(number, ids, texts, features, cut))
        return first

    def collect(self) -> None:
        """List the shards that `write_apart` wrote, up to the first missing one."""
        for number, record in sorted(self.shards.apart().items()):
            if number == len(self._manifest["shards"]["candidates"]):
                self._add("candidates", record)
                self.shards.forget(number)

    def rows_of(self, ids: Sequence[str]) -> Int[Tensor, " n"]:
        """The row of each id, -1 if no candidate has it; add all candidates before.

        Raises:
            StoreError: If two candidates have the same id.
        """
        self._finish_index()
        candidates = self._table("candidates")
        return IdIndex(self._table("index"), lambda row: candidates.text("id", row)).rows_of(ids)

    def add_queries(
        self,
        *,
        ids: Sequence[str],
        texts: Sequence[str],
        features: Float[Tensor, "Q D"],
        relevant_offsets: Int[Tensor, " Q+1"],
        relevant: Int[Tensor, " R"],
        label: Float[Tensor, " R"] | None = None,
        history_offsets: Int[Tensor, " Q+1"] | None = None,
        history: Int[Tensor, " H"] | None = None,
        own_offsets: Int[Tensor, " Q+1"] | None = None,
        own: Int[Tensor, " O"] | None = None,
        split: Sequence[str | None] | None = None,
        judged: Bool[Tensor, " Q"] | None = None,
        missing_offsets: Int[Tensor, " Q+1"] | None = None,
        missing: Float[Tensor, " M"] | None = None,
        users: Sequence[str] | None = None,
        cut: int = 0,
    ) -> None:
        """Write one shard of queries; add all candidates before.

        Args:
            ids: Ids of the queries, all different.
            texts: Texts of the queries.
            features: Vectors of the queries.
            relevant_offsets: Where each query's judged candidates begin, from 0.
            relevant: Rows of the judged candidates.
            label: Grades of the judged candidates, above 0; 1 by default.
            history_offsets: Where each query's history begins; by default no query has a history.
            history: Rows of the histories, oldest first.
            own_offsets: Where each query's own candidates begin; by default all queries rank the whole pool.
            own: Rows of the own candidates.
            split: `train`, `val`, `test` or None for each query.
            judged: Whether each query's candidates were judged; all by default.
            missing_offsets: Where each query's judged candidates that the pool lacks begin; by default there are none.
            missing: Grades of these candidates, above 0.
            users: The id of each query's user; by default each query has a user of its own.
            cut: How many of the texts were too long for the encoder.

        Raises:
            ValueError: If the sizes do not agree, a label is not above 0, or a row does not exist.
            StoreError: If a vector is not finite, or two candidates have the same id.
        """
        self._finish_index()
        label = torch.ones(len(relevant)) if label is None else label
        split = [None] * len(ids) if split is None else split
        lists = {
            "relevant": (relevant_offsets, relevant),
            "history": _list(history_offsets, history, len(ids)),
            "own": _list(own_offsets, own, len(ids)),
        }
        users = ids if users is None else users
        if {len(texts), len(split), len(users)} != {len(ids)} or len(label) != len(relevant):
            raise ValueError(f"{len(ids)} queries with {len(relevant)} relevant candidates do not fit the other sizes")
        for name, (offsets, rows) in lists.items():
            self._check_list(name, offsets, rows, len(ids))
        missing = torch.zeros(0) if missing is None else missing
        missing_offsets = torch.zeros(len(ids) + 1, dtype=torch.int64) if missing_offsets is None else missing_offsets
        _check_offsets("missing", missing_offsets, missing, len(ids))
        grades = torch.cat([label.to(torch.float32), missing.to(torch.float32)])
        if not bool(((grades > 0) & grades.isfinite()).all()):
            raise ValueError("a label of a relevant candidate is not a finite number above 0")
        if unknown := set(split).difference(SPLITS):
            raise ValueError(f"no such split: {unknown}; there are train, val, test and None")
        vectors = self._stored(features, (len(ids), self._manifest["feature_dim"]), "query")
        tensors = {
            **({"features": vectors} if self._manifest["feature_dim"] else {}),
            "split": torch.tensor([SPLITS[name] for name in split], dtype=torch.uint8),
            "label": label.to(torch.float32).contiguous(),
            "judged": torch.ones(len(ids), dtype=torch.uint8) if judged is None else judged.to(torch.uint8),
            "user": torch.from_numpy(hash_ids(users)),
            "missing": missing.to(torch.float32).contiguous(),
            "missing_offsets": missing_offsets.to(torch.int64, copy=True).contiguous(),
            **{name: rows.to(torch.int64, copy=True).contiguous() for name, (_, rows) in lists.items()},
            **{
                f"{name}_offsets": offsets.to(torch.int64, copy=True).contiguous()
                for name, (offsets, _) in lists.items()
            },
            **pack_texts("id", ids),
            **pack_texts("text", texts),
        }
        counts = {name: len(rows) for name, (_, rows) in lists.items()}
        self._write("queries", tensors, rows=len(ids), cut=cut, **counts)

    def finish(self) -> Path:
        """Finish the pool and rename it to its path; nothing can be added after that.

        Raises:
            StoreError: If the pool has no candidates, two have the same id, or the path exists by now.
        """
        self._finish_index()
        if not self._manifest["shards"]["queries"]:
            nobody = torch.zeros(1, dtype=torch.int64)
            vectors = torch.zeros(0, self._manifest["feature_dim"])
            self.add_queries(ids=[], texts=[], features=vectors, relevant_offsets=nobody, relevant=nobody[:0])
        return super().finish()

    def _unlisted(self) -> set[str]:
        """Check the shards that other processes have written; remove records of shards that the manifest lists."""
        listed, keep = len(self._manifest["shards"]["candidates"]), set()
        for number, record in self.shards.apart().items():
            file = self.partial / record["file"]
            check_size(file, record["bytes"])
            if sha256_of(file) != record["sha256"]:
                raise damaged(file, "it has changed since it was written: its sha256 differs")
            if number < listed:
                self.shards.forget(number)
            keep.add(file.name)
        return keep

    def _add(self, table: str, record: dict[str, Any]) -> None:
        if table == "candidates":
            self._manifest["normalized"] &= bool(record["unit"])
        super()._add(table, record)

    def _check_list(self, name: str, offsets: Tensor, rows: Tensor, num_queries: int) -> None:
        _check_offsets(name, offsets, rows, num_queries)
        if bool(((rows < 0) | (rows >= self.num_candidates)).any()):
            raise ValueError(f"{name} names a candidate outside the {self.num_candidates} that were added")

    def _table(self, name: str) -> Table:
        if name not in self._tables:
            self._tables[name] = self._format.open_table(self.partial, name, self._manifest)
        return self._tables[name]

    def _finish_index(self) -> None:
        """Write the missing part of the index: the sorted hashes of all ids, one bucket per shard."""
        if not self.num_candidates:
            raise StoreError(str(self.partial), "no candidate was written.", cure="use a source that has candidates")
        buckets = num_buckets(self.num_candidates)
        for bucket in range(len(self._manifest["shards"]["index"]), buckets):
            hashes, rows = self._bucket(bucket, buckets)
            self._check_ids(hashes, rows)
            tensors = {"hash": torch.from_numpy(hashes), "row": torch.from_numpy(rows.astype(np.int32))}
            self._write("index", tensors, rows=len(rows))

    def _bucket(self, bucket: int, buckets: int) -> tuple[np.ndarray, np.ndarray]:
        """The sorted hashes of a bucket, and the row of each; equal hashes are in the order of rows."""
        found = []
        for shard, first in zip(self._table("candidates").shards, self._table("candidates").starts, strict=False):
            hashes = shard.tensors["id_hash"].numpy()
            places = np.flatnonzero(bucket_of(hashes, buckets) == bucket)
            found.append((hashes[places], places + first))
        hashes, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(hashes, kind="stable")
        return hashes[order], rows[order]

    def _check_ids(self, hashes: np.ndarray, rows: np.ndarray) -> None:
        for alike in _runs(hashes, rows):
            ids = [self._table("candidates").text("id", row) for row in alike]
            if len(set(ids)) < len(ids):
                twice = max(ids, key=ids.count)
                at = " and ".join(f"{row:,}" for row, each in zip(alike, ids, strict=True) if each == twice)
                cure = f"give each candidate a unique id, delete {self.partial} and build it again"
                raise StoreError(str(self.partial), f"candidates {at} have the same id {twice!r}.", cure=cure)


def _check_offsets(name: str, offsets: Tensor, values: Tensor, num_queries: int) -> None:
    if len(offsets) != num_queries + 1 or int(offsets[-1]) != len(values):
        raise ValueError(f"{name}_offsets do not fit {num_queries} queries and {len(values)} rows")
    if int(offsets[0]) != 0 or bool((offsets.diff() < 0).any()):
        raise ValueError(f"{name}_offsets do not fit: they must rise from 0, got {offsets.tolist()[:8]} ...")


def _read_record(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if "shard" in found and not signed(found):
            raise ValueError("its own sha256 is not that of its content")
        record = found.get("shard", found)  # an older version wrote the record alone
        return {name: record[name] for name in ("file", "rows", "bytes", "cut", "unit", "sha256")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cure = f"delete {file}: the build makes that shard again"
        raise StoreError(str(file), f"damaged: {type(error).__name__}: {error}.", cure=cure) from error


def _list(offsets: Tensor | None, rows: Tensor | None, num_queries: int) -> tuple[Tensor, Tensor]:
    """A ragged list of rows; by default it is empty for each query."""
    nowhere = torch.zeros(num_queries + 1, dtype=torch.int64)
    return nowhere if offsets is None else offsets, nowhere[:0] if rows is None else rows


def _runs(hashes: np.ndarray, rows: np.ndarray) -> Iterator[list[int]]:
    """The rows of each hash that occurs more than once."""
    repeated = np.flatnonzero(np.diff(hashes) == 0)
    for value in np.unique(hashes[repeated]):
        first, end = np.searchsorted(hashes, value, "left"), np.searchsorted(hashes, value, "right")
        yield rows[first:end].tolist()


def _all_of_length_one(vectors: Float[Tensor, "N D"]) -> bool:
    """Whether all vectors have length 1, up to the rounding of the dtype."""
    slack = torch.finfo(vectors.dtype).eps
    return bool(((vectors.float().norm(dim=1) - 1).abs() <= max(slack, 1e-5)).all())
