"""esci: find the product that a shopping query asks for, from Amazon's Shopping Queries Dataset."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from features.reading.downloads import Download, fetch
from features.reading.lines import TextFile
from features.reading.parquet import read_columns
from features.texts.groups import Split
from features.texts.pools import PoolQuery, PoolText
from features.texts.subsets import draw_key, drawn, pool_of
from registry import SOURCES, ConfigError
from registry.ranges import FilePath, Rows, Seed

_TERMS = "Apache-2.0"
_SITE = "https://media.githubusercontent.com/media/amazon-science/esci-data/main/shopping_queries_dataset"
_FILES = ("shopping_queries_dataset_examples.parquet", "shopping_queries_dataset_products.parquet")
DOWNLOADS = [
    Download(
        f"{_SITE}/{_FILES[0]}",
        _TERMS,
        51_286_808,
        "4a735b693b4a424a6fc67f5be6e4c811495c488bbf66d02a602d308b2744263a",
        f"esci/{_FILES[0]}",
    ),
    Download(
        f"{_SITE}/{_FILES[1]}",
        _TERMS,
        1_108_857_465,
        "25124442d064d64b26f74082d6fa09438d679efc0c183cf28d19064a2b65a265",
        f"esci/{_FILES[1]}",
    ),
]

# Exact, substitute, complement: the gains of the KDD Cup's ndcg.
_GAINS = {"E": 1.0, "S": 0.1, "C": 0.01}
_NAMED = {"brand", "color"}
_OPTIONS = ("locale", "version", "pool", "num_candidates", "num_queries", "relevance", "splits", "fields", "seed")
Field = Literal["title", "brand", "color", "bullet_point", "description"]


@SOURCES.register("esci")
class Esci:
    """Shopping queries with products that people judged as exact, substitute, complement or irrelevant.

    Read as published: `shopping_queries_dataset_examples.parquet` and `shopping_queries_dataset_products.parquet`.

    Args:
        path: The folder with the files; null downloads them to `data/downloads`.
        locale: The country whose queries and products are used.
        version: `small` leaves out easy queries, as the published ranking task does.
        pool: The candidates: the products judged for the queries, or the whole catalogue of the locale.
        num_candidates: Size of the pool: all relevant products, and others drawn at random; null for all.
        num_queries: Number of queries with an exact product to draw; null for all.
        relevance: Relevant products of a query: `one` exact product, drawn at random; all `exact` ones; or all but
            irrelevant ones, `graded` by the KDD Cup's gains.
        splits: `drawn` splits all queries by the datamodule's shares; `published` uses the published test, and a tenth
            of the training queries for validation.
        fields: The fields that form a product's text.
        seed: Seed of all random draws.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        locale: Literal["us", "es", "jp"] = "us",
        version: Literal["small", "large"] = "small",
        pool: Literal["judged", "catalogue"] = "judged",
        num_candidates: Rows | None = None,
        num_queries: Rows | None = None,
        relevance: Literal["one", "exact", "graded"] = "one",
        splits: Literal["drawn", "published"] = "drawn",
        fields: Annotated[list[Field], MinLen(1)] = ["title", "brand", "color"],  # noqa: B006
        seed: Seed = 0,
    ) -> None:
        self.path, self.locale, self.version, self.pool = path, locale, version, pool
        self.num_candidates, self.num_queries = num_candidates, num_queries
        self.relevance, self.splits, self.fields, self.seed = relevance, splits, fields, seed

    def fingerprint(self) -> dict[str, Any]:
        """The files or downloads, and the options."""
        return {"name": "esci", "files": self._origin, **{name: getattr(self, name) for name in _OPTIONS}}

    def candidates(self) -> Iterator[PoolText]:
        """Yield the products of the pool, in the order of their file."""
        kept = None if self.pool == "catalogue" else {each for query in self._judged.values() for each in query.labels}
        if self.num_candidates is not None:
            relevant = {id for query in self.queries() for id in query.relevant or ()}
            others = (row["product_id"] for row in self._products(None, [])) if kept is None else kept
            kept = pool_of(relevant, others, self.num_candidates, self.seed)
        for row in self._products(kept, [f"product_{field}" for field in self.fields]):
            yield PoolText(row["product_id"], self._text(row), origin=f"product {row['product_id']}")

    def queries(self) -> Iterator[PoolQuery]:
        """Yield the drawn queries, in the order of their file."""
        training = [id for id, query in self._judged.items() if query.part == "train"]
        validating = drawn(training, len(training) // 10, f"{self.seed} val")
        for id, query in self._judged.items():
            split: Split | None = None
            if self.splits == "published":
                split = "val" if id in validating else "train" if query.part == "train" else "test"
            yield PoolQuery(id, query.text, self._relevant(id, query), split, origin=f"query {id}")

    def _relevant(self, id: str, query: "_Judged") -> dict[str, float]:
        if self.relevance == "graded":
            return {product: _GAINS[label] for product, label in query.labels.items() if label in _GAINS}
        if self.relevance == "exact":
            return dict.fromkeys(query.exact, 1.0)
        return {min(query.exact, key=lambda product: draw_key(self.seed, f"{id} {product}")): 1.0}

    @cached_property
    def _origin(self) -> list[dict[str, Any]]:
        if self.path is None:
            return [download.fingerprint for download in DOWNLOADS]
        return [TextFile(file).fingerprint for file in self._files]

    @cached_property
    def _files(self) -> list[Path]:
        if self.path is None:
            return [fetch(download) for download in DOWNLOADS]
        found = [Path(self.path) / name for name in _FILES]
        for file in found:
            if not file.is_file():
                problem = f"has no {file.name}." if file.parent.is_dir() else "no such folder."
                cure = "set features.source.path to the shopping_queries_dataset of github.com/amazon-science/esci-data"
                raise ConfigError(self.path, problem, cure=cure)
        return found

    @cached_property
    def _judged(self) -> "dict[str, _Judged]":
        """The drawn queries by id."""
        columns = [
            "query_id",
            "query",
            "product_id",
            "product_locale",
            "esci_label",
            f"{self.version}_version",
            "split",
        ]
        found: dict[str, _Judged] = {}
        for batch in read_columns(self._files[0], columns):
            for row in batch.to_pylist():
                if row["product_locale"] == self.locale and row[f"{self.version}_version"] and row["query"].strip():
                    id = str(row["query_id"])
                    query = found.setdefault(id, _Judged(row["query"].strip(), row["split"], {}))
                    query.labels[row["product_id"]] = row["esci_label"]
        chosen = drawn((id for id, query in found.items() if query.exact), self.num_queries, self.seed)
        return {id: query for id, query in found.items() if id in chosen}

    def _products(self, kept: set[str] | None, columns: list[str]) -> Iterator[dict[str, Any]]:
        for batch in read_columns(self._files[1], ["product_id", "product_locale", *columns]):
            ids, locales = batch.column("product_id").to_pylist(), batch.column("product_locale").to_pylist()
            places = [
                place
                for place, (id, locale) in enumerate(zip(ids, locales, strict=True))
                if locale == self.locale and (kept is None or id in kept)
            ]
            yield from batch.take(places).to_pylist() if places else ()

    def _text(self, row: dict[str, Any]) -> str:
        """The text of a product; its id if all fields are empty."""
        given = {field: " ".join((row[f"product_{field}"] or "").split()) for field in self.fields}
        parts = [f"{field.capitalize()}: {text}" if field in _NAMED else text for field, text in given.items() if text]
        return ". ".join(parts) or row["product_id"]


@dataclass(frozen=True)
class _Judged:
    """A query, its published split, and the label of each product judged for it."""

    text: str
    part: str
    labels: dict[str, str]

    @property
    def exact(self) -> list[str]:
        return [product for product, label in self.labels.items() if label == "E"]
