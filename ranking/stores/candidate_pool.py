"""CandidatePool: one large set of candidates that many queries share, memory-mapped from disk.

A pool is a folder of tables in shards and a manifest. `candidates` holds each candidate's id, text and vector; `index`
finds rows by ids; `queries` holds each query's id, text, vector and split, and which candidates are relevant to it,
which were its history, and, where it does not rank the whole pool, which ones it ranks.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ranking.stores.files import damaged
from ranking.stores.format import MANIFEST, SPLITS, StoreFormat, check_hashes
from ranking.stores.id_index import IdIndex
from ranking.stores.shard import DTYPES, Columns, Table
from ranking.texts import check_texts

_TEXTS: Columns = {
    "features": (None, ("rows", "dim")),
    "id": (torch.uint8, ("any",)),
    "id_offsets": (torch.int64, ("rows+1",)),
    "text": (torch.uint8, ("any",)),
    "text_offsets": (torch.int64, ("rows+1",)),
}
_LISTS = ("relevant", "history", "own")

POOL = StoreFormat(
    name="candidate_pool",
    title="candidate pool",
    version=1,
    tables={
        "candidates": {**_TEXTS, "id_hash": (torch.int64, ("rows",))},
        "index": {"hash": (torch.int64, ("rows",)), "row": (torch.int32, ("rows",))},
        "queries": {
            **_TEXTS,
            "split": (torch.uint8, ("rows",)),
            **{f"{name}_offsets": (torch.int64, ("rows+1",)) for name in _LISTS},
            **{name: (torch.int64, (name,)) for name in _LISTS},
            "label": (torch.float32, ("relevant",)),
        },
    },
    fields=dict.fromkeys(("num_candidates", "num_queries", "num_relevant", "num_history", "num_own"), int)
    | {"normalized": bool},
    axes={"queries": _LISTS},
    optional={
        "queries": {
            "judged": (torch.uint8, ("rows",)),
            "user": (torch.int64, ("rows",)),
            "missing": (torch.float32, ("any",)),
            "missing_offsets": (torch.int64, ("rows+1",)),
        }
    },
    mapped=frozenset({"candidates", "index"}),
)

P = TypeVar("P", bound="CandidatePool")


class PoolQueries:
    """The queries of a pool: Q queries with R relevant candidates in total. A read returns n vectors of size D.

    Args:
        table: The table of queries.
        no_vectors: A vector of size 0 in the pool's dtype, if the pool has no vectors; else None.

    Attributes:
        split: 0 train, 1 val, 2 test, 255 where the source names no split.
        judged: Whether the candidates of a query were judged; metrics leave out other queries.
        relevant_offsets: Query q has the judged candidates relevant_offsets[q] to relevant_offsets[q + 1].
        relevant: The rows of judged candidates in the pool.
        label: The grades of judged candidates, above 0.
        user: A number for each query's user, equal in queries of the same user.
        missing_offsets: Offsets as above, of judged candidates that the pool lacks.
        missing: The grades of these candidates, above 0.
        history_offsets: Offsets as above, of histories.
        history: Rows of the candidates that each query's user has seen, oldest first.
        own_offsets: Offsets as above, of own candidates.
        own: Rows of the candidates that a query ranks; a query without such rows ranks the whole pool.
    """

    split: UInt8[Tensor, " Q"]
    judged: Bool[Tensor, " Q"]
    user: Int[Tensor, " Q"]
    relevant_offsets: Int[Tensor, " Q+1"]
    relevant: Int[Tensor, " R"]
    label: Float[Tensor, " R"]
    missing_offsets: Int[Tensor, " Q+1"]
    missing: Float[Tensor, " M"]
    history_offsets: Int[Tensor, " Q+1"]
    history: Int[Tensor, " H"]
    own_offsets: Int[Tensor, " Q+1"]
    own: Int[Tensor, " O"]

    def __init__(self, table: Table, no_vectors: Tensor | None) -> None:
        self.num_queries = len(table)
        self._table, self._no_vectors = table, no_vectors
        for name in ("split", "label", *_LISTS, *(f"{each}_offsets" for each in _LISTS)):
            setattr(self, name, table.joined(name))
        if table.has("missing"):
            self.judged = table.joined("judged").bool()
            self.missing, self.missing_offsets = table.joined("missing"), table.joined("missing_offsets")
        else:  # a pool written before these columns existed
            self.judged = torch.ones(len(table), dtype=torch.bool)
            self.missing, self.missing_offsets = torch.zeros(0), torch.zeros(len(table) + 1, dtype=torch.int64)
        self.user = table.joined("user") if table.has("user") else torch.arange(len(table))

    def id(self, query: int) -> str:
        """The id of a query."""
        return self._table.text("id", query)

    def text(self, query: int) -> str:
        """The text of a query."""
        return self._table.text("text", query)

    def features(self, rows: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """The vectors of these queries, in the stored dtype."""
        if self._no_vectors is not None:
            return self._no_vectors.expand(len(rows), 0)
        return self._table.features(rows)


class CandidatePool:
    """A finished pool, open for reading. N candidates have vectors of size D; a read returns n of them.

    In a pool without vectors, D is 0.

    Args:
        path: The folder of the pool.
        manifest: The checked manifest of the pool.
        tables: The tables by name.

    Attributes:
        encoder: The encoder of the texts; None if the vectors came with the source.
        normalized: Whether every candidate's vector has length one, up to the rounding of the stored dtype.
        min_label: The lowest grade that counts as relevant in metrics without grades; 0 for all grades above 0.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], tables: dict[str, Table]) -> None:
        self.path, self.manifest = path, manifest
        self.feature_dim: int = manifest["feature_dim"]
        self.dtype: torch.dtype = DTYPES[manifest["dtype"]]
        self.encoder: dict[str, Any] | None = manifest["encoder"]
        self.normalized: bool = manifest["normalized"]
        self.min_label: float = manifest["source"].get("min_label") or 0
        self.num_candidates = len(tables["candidates"])
        self._no_vectors = None if self.feature_dim else torch.empty(0, dtype=self.dtype)
        self.queries = PoolQueries(tables["queries"], self._no_vectors)
        self._candidates, self._tables = tables["candidates"], tables
        self._index = IdIndex(tables["index"], self.id)

    @classmethod
    def open(cls: type[P], path: str | Path, verify: bool = False) -> P:
        """Open a pool; read and check the data of its queries, and leave everything else on disk.

        Args:
            path: The folder of the pool.
            verify: Whether to read all files and compare them with the manifest's hashes.

        Raises:
            StoreError: If the pool is missing, unfinished, damaged or not a pool; names the file, the fault and the
                cure.
        """
        path = Path(path)
        manifest = POOL.read_manifest(path)
        tables = {}
        for name in POOL.tables:
            if not manifest["shards"][name]:
                raise damaged(path / MANIFEST, f"lists no shard of {name}")
            if verify:
                check_hashes(path, manifest["shards"][name])
            tables[name] = POOL.open_table(path, name, manifest)
        pool = cls(path, manifest, tables)
        pool._check()
        return pool

    def blocks(self, start: int = 0, stop: int | None = None, size: int = 65536) -> Iterator[Float[Tensor, "n D"]]:
        """Yield the vectors of rows `start` to `stop` in order, as views of the files with up to `size` rows each."""
        stop = self.num_candidates if stop is None else min(stop, self.num_candidates)
        for shard, first in zip(self._candidates.shards, self._candidates.starts, strict=False):
            last = min(stop - first, shard.sizes["rows"])
            for begin in range(max(start - first, 0), last, size):
                if self._no_vectors is not None:
                    yield self._no_vectors.expand(min(size, last - begin), 0)
                    continue
                yield shard.tensors["features"][begin : min(begin + size, last)]

    def features(self, rows: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """The vectors of these rows, in the stored dtype."""
        if self._no_vectors is not None:
            return self._no_vectors.expand(len(rows), 0)
        return self._candidates.features(rows)

    def id(self, row: int) -> str:
        """The id of a candidate."""
        return self._candidates.text("id", row)

    def text(self, row: int) -> str:
        """The text of a candidate."""
        return self._candidates.text("text", row)

    def rows_of(self, ids: Sequence[str]) -> Int[Tensor, " n"]:
        """The row of each id, -1 where the pool has none."""
        check_texts("ids", ids)
        return self._index.rows_of(ids)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process opens the files again, because a pickled memory map would be a copy of the features.
        return type(self).open, (self.path,)

    def __repr__(self) -> str:
        counts = f"{self.num_candidates:,} candidates, {self.queries.num_queries:,} queries"
        vectors = f"{self.feature_dim} x {self.manifest['dtype']}" if self.feature_dim else "no vectors"
        return f"CandidatePool({str(self.path)!r}: {counts}, {vectors})"

    def _check(self) -> None:
        queries, manifest = self.queries, self.path / MANIFEST
        counts = {f"num_{name}": len(getattr(queries, name)) for name in _LISTS}
        counts |= {"num_candidates": self.num_candidates, "num_queries": queries.num_queries}
        for name, count in counts.items():
            if self.manifest[name] != count:
                raise damaged(manifest, f"{name} is {self.manifest[name]!r}, but the shards have {count}")
        if (count := len(self._tables["index"])) != self.num_candidates:
            raise damaged(manifest, f"its index has {count} of {self.num_candidates} candidates")
        for name in _LISTS:
            rows = getattr(queries, name)
            self._check_queries(name, (rows < 0) | (rows >= self.num_candidates), rows)
        for name, labels in {"label": queries.label, "missing": queries.missing}.items():
            self._check_queries(name, ~((labels > 0) & labels.isfinite()), labels)
        known = torch.tensor(list(SPLITS.values()), dtype=torch.uint8)
        self._check_queries("split", ~torch.isin(queries.split, known), queries.split)

    def _check_queries(self, name: str, wrong: Tensor, values: Tensor) -> None:
        """Raise an error for the first wrong value."""
        if bool(wrong.any()):
            place = int(wrong.nonzero()[0])
            axis = {"split": "rows", "label": "relevant"}.get(name, name)
            shard, at = Table(self._tables["queries"].shards, axis).at(place)
            raise damaged(
                shard.path, f"{name} {at} is {values[place].item()}; there are {self.num_candidates} candidates"
            )
