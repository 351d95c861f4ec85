"""trec: passages judged by assessors, as the tracks of TREC hand them out, several years in one pool."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from features.passage_files import read_judgement, read_text
from features.pool_sources import PoolQuery, PoolText
from features.text_files import TextFile, find_file
from features.text_groups import Split
from registry import SOURCES, ConfigError
from registry.ranges import FilePath

_FILES = ("collection.tsv", "queries.tsv", "qrels.txt")
_SPLITS: tuple[Split | None, ...] = ("train", "val", "test", None)


@SOURCES.register("trec")
class Trec:
    """Queries and passages of folders with `collection.tsv`, `queries.tsv` (id, tab, text) and `qrels.txt`.

    All passages are one pool; of those that several folders have, each is in it once. The files may be gzipped.

    Args:
        train: Folders whose queries train.
        val: Folders whose queries validate.
        test: Folders whose queries test.
        path: Folders whose queries are split by the datamodule's shares.
        min_relevance: Judgements below count as not relevant; those above keep their grades. TREC's Deep Learning
            tracks count from 2 where a measure knows no grades.
    """

    def __init__(
        self,
        train: FilePath | list[FilePath] | None = None,
        val: FilePath | list[FilePath] | None = None,
        test: FilePath | list[FilePath] | None = None,
        path: FilePath | list[FilePath] | None = None,
        min_relevance: Annotated[int, Interval(ge=1, le=1000)] = 2,
    ) -> None:
        given = [[each] if isinstance(each, str) else each or [] for each in (train, val, test, path)]
        self.folders: list[tuple[Path, Split | None]] = [
            (Path(folder), split) for split, folders in zip(_SPLITS, given, strict=True) for folder in folders
        ]
        if not self.folders:
            raise ValueError("no folder: set train, val, test or path")
        self.min_relevance = min_relevance

    def fingerprint(self) -> dict[str, Any]:
        """The files of each folder, which split it is for, and the options."""
        folders = [
            {"split": split, "files": [file.fingerprint for file in files]}
            for files, (_, split) in zip(self._files, self.folders, strict=True)
        ]
        return {"name": "trec", "folders": folders, "min_relevance": self.min_relevance}

    def candidates(self) -> Iterator[PoolText]:
        """The passages of each folder that those before it do not have."""
        seen: set[str] = set()
        for place, (collection, _, _) in enumerate(self._files, start=1):
            for id, text in collection.parsed(read_text):
                if id not in seen:
                    yield PoolText(id, text, origin=f"{collection.path}, passage {id}")
                if place < len(self._files):
                    seen.add(id)

    def queries(self) -> Iterator[PoolQuery]:
        """The queries of each folder, with the passages that are relevant enough."""
        for (_, queries, qrels), (_, split) in zip(self._files, self.folders, strict=True):
            relevant: dict[str, dict[str, float]] = {}
            for query, passage, label in qrels.parsed(read_judgement):
                if label >= self.min_relevance:
                    relevant.setdefault(query, {})[passage] = label
            for id, text in queries.parsed(read_text):
                yield PoolQuery(id, text, relevant.get(id, {}), split, origin=f"{queries.path}, query {id}")

    @cached_property
    def _files(self) -> list[tuple[TextFile, TextFile, TextFile]]:
        found = []
        for folder, _ in self.folders:
            files = [find_file(folder, name) for name in _FILES]
            for name, file in zip(_FILES, files, strict=True):
                if file is None:
                    problem = f"has no {name} or {name}.gz." if folder.is_dir() else "no such folder."
                    cure = f"set features.source to folders with {', '.join(_FILES)}"
                    raise ConfigError(str(folder), problem, cure=cure)
            found.append(tuple(files))
        return found
