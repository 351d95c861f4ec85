"""msmarco: find the passage that answers a search query, among those of all queries or all 8.8 million passages."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from features.reading.downloads import Download, fetch_all
from features.sources.retrieval.msmarco_files import Answers, Collection, Part, Passages
from features.texts.groups import Split
from features.texts.pools import PoolQuery, PoolText
from features.texts.subsets import draw_key, drawn, pool_of
from registry import SOURCES, ConfigError
from registry.ranges import FilePath, Rows, Seed

_TERMS = "MS MARCO's terms: for non-commercial research"
_HUB = "https://huggingface.co/datasets/microsoft/ms_marco/resolve/a47ee7aae8d7d466ba15f9f0bfac3b3681087b3a"
_PASSAGES = "https://msmarco.z22.web.core.windows.net/msmarcoranking/collectionandqueries.tar.gz"

_OPTIONS = ("pool", "num_candidates", "num_queries", "relevance", "splits", "seed")


def _hub_files(version: str, num_train: int) -> list[Download]:
    train = [f"{version}/train-{place:05}-of-{num_train:05}.parquet" for place in range(num_train)]
    files = [*train, f"{version}/validation-00000-of-00001.parquet"]
    return [Download(f"{_HUB}/{file}", _TERMS, file=f"msmarco/{file}") for file in files]


DOWNLOADS = {
    "v1.1": _hub_files("v1.1", 1),
    "v2.1": _hub_files("v2.1", 7),
    "passages": [
        Download(
            _PASSAGES,
            _TERMS,
            1_057_717_952,
            "31644046b18952c1386cd4564ba2ae69",
            "msmarco/passages/collectionandqueries.tar.gz",
        )
    ],
}


@SOURCES.register("msmarco")
class MsMarco:
    """Search queries and passages of MS MARCO: the passage collection, or the edition with ten passages per query.

    Read as published: `collection.tsv`, `queries.*.tsv` and `qrels.*.tsv`, plain, gzipped or in their tar archives; or
    the Parquet files of v1.1 or v2.1 on the Hugging Face hub.

    Args:
        path: The folder with the files; null downloads the edition to `data/downloads`.
        edition: The edition to download: v1.1 and v2.1 list passages for each query, `passages` is the collection.
        pool: The candidates: the passages listed with the queries, or all passages.
        num_candidates: Size of the pool: all relevant passages, and others drawn at random; null for all.
        num_queries: Number of training queries to draw; null for all.
        relevance: Relevant passages of a query: `one`, drawn at random, or `all`.
        splits: `drawn` splits the training queries by the datamodule's shares; `published` uses the dev queries
            (dev.small, validation) as the test, and a tenth of the training queries for validation.
        seed: Seed of all random draws.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        edition: Literal["v1.1", "v2.1", "passages"] = "v1.1",
        pool: Literal["queries", "collection"] = "queries",
        num_candidates: Rows | None = None,
        num_queries: Rows | None = None,
        relevance: Literal["one", "all"] = "one",
        splits: Literal["drawn", "published"] = "drawn",
        seed: Seed = 0,
    ) -> None:
        self.path, self.edition, self.pool = path, edition, pool
        self.num_candidates, self.num_queries = num_candidates, num_queries
        self.relevance, self.splits, self.seed = relevance, splits, seed

    def fingerprint(self) -> dict[str, Any]:
        """The files or downloads, and the options."""
        return {"name": "msmarco", **self._origin, **{name: getattr(self, name) for name in _OPTIONS}}

    def candidates(self) -> Iterator[PoolText]:
        """Yield the passages of the pool, in the order of their files."""
        kept = None
        if self.num_candidates is not None:
            relevant = {id for query in self.queries() for id in query.relevant or ()}
            kept = pool_of(relevant, (id for id, _ in self._passages()), self.num_candidates, self.seed)
        for id, text in self._passages():
            if kept is None or id in kept:
                yield PoolText(id, text, origin=f"passage {id}")

    def queries(self) -> Iterator[PoolQuery]:
        """Yield the drawn queries, in the order of their files."""
        validating = drawn(self._chosen["train"], len(self._chosen["train"]) // 10, f"{self.seed} val")
        for part, chosen in self._chosen.items():
            for id, text, relevant in self._form.queries(part, chosen):
                if self.relevance == "one":
                    relevant = [min(relevant, key=lambda passage: draw_key(self.seed, passage))]
                split: Split | None = None
                if self.splits == "published":
                    split = "test" if part == "dev" else "val" if id in validating else "train"
                yield PoolQuery(id, text, dict.fromkeys(relevant, 1.0), split, origin=f"query {id}")

    @cached_property
    def _origin(self) -> dict[str, Any]:
        if self.path is None:
            return {"files": [download.fingerprint for download in DOWNLOADS[self.edition]]}
        return self._form.fingerprint()

    @cached_property
    def _form(self) -> Passages:
        if self.path is None:
            folder = fetch_all(DOWNLOADS[self.edition])
        else:
            folder = Path(self.path)
            folder = folder / self.edition if (folder / self.edition).is_dir() else folder
        parts: list[Part] = ["train", "dev"] if self.splits == "published" else ["train"]
        for form in (Collection(folder, parts), Answers(folder, parts)):
            if form.is_there:
                return form
        problem = "has no files of MS MARCO." if folder.is_dir() else "no such folder."
        cure = (
            "set features.source.path to a folder with collection.tsv, queries.train.tsv, queries.dev.small.tsv, "
            "qrels.train.tsv and qrels.dev.small.tsv, or collectionandqueries.tar.gz, or with the *.parquet of "
            "huggingface.co/datasets/microsoft/ms_marco"
        )
        raise ConfigError(str(folder), problem, cure=cure)

    @cached_property
    def _chosen(self) -> dict[Part, set[str]]:
        chosen: dict[Part, set[str]] = {"train": drawn(self._form.answered("train"), self.num_queries, self.seed)}
        if self.splits == "published":
            chosen["dev"] = set(self._form.answered("dev"))
        return chosen

    def _passages(self) -> Iterator[tuple[str, str]]:
        listed = set().union(*self._chosen.values()) if self.pool == "queries" else None
        return self._form.passages(listed)
