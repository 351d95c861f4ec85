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
    """Writes shards of candidates into a build, from any process.

    Args:
        folder: Of the build.
        feature_dim: Size D of each vector.
        dtype: Of the stored vectors.
    """

    folder: Path
    feature_dim: int
    dtype: str

    def write(
        self, number: int, ids: Sequence[str], texts: Sequence[str], features: Float[Tensor, "N D"], cut: int = 0
    ) -> dict[str, Any]:
        """Write a shard; what a manifest says of it."""
        if len(ids) != len(texts):
            raise ValueError(f"{len(ids)} ids do not fit {len(texts)} texts")
        vectors = stored(features, (len(ids), self.feature_dim), self.dtype, "candidate", self.folder)
        tensors = {"features": vectors, **pack_texts("id", ids), **pack_texts("text", texts)}
        tensors |= {"id_hash": torch.from_numpy(hash_ids(ids))}
        unit = _all_of_length_one(vectors)
        return write_shard(self.folder, "candidates", number, tensors, rows=len(ids), cut=cut, unit=unit)

    def write_apart(
        self, number: int, ids: Sequence[str], texts: Sequence[str], features: Float[Tensor, "N D"], cut: int = 0
    ) -> None:
        """Write a shard that the writer lists later, by its record in a file beside it."""
        record = self.write(number, ids, texts, features, cut)
        write_file(self._record(number), as_signed_json({"shard": record}))

    def apart(self) -> dict[int, dict[str, Any]]:
        """The records of shards that are not listed yet, by number.

        Raises:
            StoreError: If one of them has changed since it was written.
        """
        files = sorted(self.folder.glob("candidates-*.json"))
        return {int(file.stem.rpartition("-")[2]): _read_record(file) for file in files}

    def forget(self, number: int) -> None:
        """Remove the record of a shard that is listed now."""
        self._record(number).unlink()

    def _record(self, number: int) -> Path:
        return (self.folder / shard_name("candidates", number)).with_suffix(".json")


class CandidatePoolWriter(StoreWriter):
    """Writes candidates, then queries; the state on disk is the one after some whole number of `add_` calls.

    Args:
        path: The folder of the finished pool.
        feature_dim: Size D of each vector.
        dtype: float16, bfloat16 or float32.
        settings: All that the content depends on; a build goes on only with the same ones.
        encoder: What is needed to embed new texts in the same way.
        source: Where the texts came from.

    Raises:
        StoreError: If the pool is finished already, another process is building it, or what is there was made with
            other settings or has been changed since.
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
        """Candidates that are safely on disk, as far as none before them is missing."""
        return self._manifest["num_candidates"]

    @property
    def num_queries(self) -> int:
        """Queries that are safely on disk."""
        return self._manifest["num_queries"]

    @property
    def shards(self) -> CandidateShards:
        """What writes shards of candidates, also in other processes; `collect` lists them."""
        return CandidateShards(self.partial, self._manifest["feature_dim"], self._manifest["dtype"])

    @property
    def candidate_shards(self) -> set[int]:
        """Numbers of the shards of candidates that are safely on disk."""
        return {*range(len(self._manifest["shards"]["candidates"])), *self.shards.apart()}

    def add_candidates(
        self, ids: Sequence[str], texts: Sequence[str], features: Float[Tensor, "N D"], cut: int = 0
    ) -> int:
        """Write one shard of candidates.

        Args:
            ids: No two of a pool are equal; that is checked when all are there.
            texts: As they are shown to a ranker.
            features: Their vectors.
            cut: How many of the texts were too long for the encoder.

        Returns:
            The row of the first one.

        Raises:
            StoreError: If a vector is not finite.
        """
        if self._manifest["shards"]["index"]:
            raise ValueError("candidates cannot be added once queries are, or ids were looked up")
        self.collect()
        first = self.num_candidates
        number = len(self._manifest["shards"]["candidates"])
        self._add("candidates", self.shards.write(number, ids, texts, features, cut))
        return first

    def collect(self) -> None:
        """List the shards that were written apart, as far as none before them is missing."""
        for number, record in sorted(self.shards.apart().items()):
            if number == len(self._manifest["shards"]["candidates"]):
                self._add("candidates", record)
                self.shards.forget(number)

    def rows_of(self, ids: Sequence[str]) -> Int[Tensor, " n"]:
        """The row of each id, -1 where there is none; all candidates must have been added before.

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
        cut: int = 0,
    ) -> None:
        """Write one shard of queries; all candidates must have been added before.

        Args:
            ids: No two of them equal.
            texts: Of the queries.
            features: What the encoder makes of the queries.
            relevant_offsets: Where each query's judged candidates begin, from 0.
            relevant: Their rows.
            label: Their grades, above 0; 1 by default.
            history_offsets: Where each query's history begins; none has one by default.
            history: Rows, oldest first.
            own_offsets: Where each query's own candidates begin; all rank the whole pool by default.
            own: Rows.
            split: `train`, `val`, `test` or None for each query.
            judged: Whether anybody judged a query's candidates; all by default.
            missing_offsets: Where the grades of judged candidates begin that the pool lacks; there are none by default.
            missing: These grades, above 0.
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
        if {len(texts), len(split)} != {len(ids)} or len(label) != len(relevant):
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
        tensors = {
            "features": self._stored(features, (len(ids), self._manifest["feature_dim"]), "query"),
            "split": torch.tensor([SPLITS[name] for name in split], dtype=torch.uint8),
            "label": label.to(torch.float32).contiguous(),
            "judged": torch.ones(len(ids), dtype=torch.uint8) if judged is None else judged.to(torch.uint8),
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
        """Give the pool its name; nothing can be added after that.

        Raises:
            StoreError: If there is no candidate in it, two have the same id, or the name has been taken meanwhile.
        """
        self._finish_index()
        if not self._manifest["shards"]["queries"]:
            nobody = torch.zeros(1, dtype=torch.int64)
            vectors = torch.zeros(0, self._manifest["feature_dim"])
            self.add_queries(ids=[], texts=[], features=vectors, relevant_offsets=nobody, relevant=nobody[:0])
        return super().finish()

    def _unlisted(self) -> set[str]:
        """Shards that other processes have written, each looked at; records of shards that are listed are removed."""
        listed, keep = len(self._manifest["shards"]["candidates"]), set()
        for number, record in self.shards.apart().items():
            file = self.partial / record["file"]
            check_size(file, record["bytes"])
            if sha256_of(file) != record["sha256"]:
                raise damaged(file, "its sha256 is not the one it was written with")
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
        """Write what is missing of the index: the hashes of all ids in order, a bucket a shard."""
        if not self.num_candidates:
            raise StoreError(str(self.partial), "no candidate was written.", cure="give a source that has some")
        buckets = num_buckets(self.num_candidates)
        for bucket in range(len(self._manifest["shards"]["index"]), buckets):
            hashes, rows = self._bucket(bucket, buckets)
            self._check_ids(hashes, rows)
            tensors = {"hash": torch.from_numpy(hashes), "row": torch.from_numpy(rows.astype(np.int32))}
            self._write("index", tensors, rows=len(rows))

    def _bucket(self, bucket: int, buckets: int) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of a bucket in order, and the rows they belong to; equal ones in the order of rows."""
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
                cure = f"give each candidate an id of its own, delete {self.partial} and build it again"
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
    """A ragged list of rows, empty for each query where none is given."""
    nowhere = torch.zeros(num_queries + 1, dtype=torch.int64)
    return nowhere if offsets is None else offsets, nowhere[:0] if rows is None else rows


def _runs(hashes: np.ndarray, rows: np.ndarray) -> Iterator[list[int]]:
    """The rows of each hash that comes more than once."""
    repeated = np.flatnonzero(np.diff(hashes) == 0)
    for value in np.unique(hashes[repeated]):
        first, end = np.searchsorted(hashes, value, "left"), np.searchsorted(hashes, value, "right")
        yield rows[first:end].tolist()


def _all_of_length_one(vectors: Float[Tensor, "N D"]) -> bool:
    """Whether lengths are 1 to the rounding of the dtype."""
    slack = torch.finfo(vectors.dtype).eps
    return bool(((vectors.float().norm(dim=1) - 1).abs() <= max(slack, 1e-5)).all())
