"""trec: passages judged by assessors, in the format of TREC's tracks; several years form one pool."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from features.reading.fields import LineError
from features.reading.judgements import read_judgements
from features.reading.lines import TextFile, find_file
from features.sources.retrieval.msmarco_files import read_text
from features.texts.groups import Split
from features.texts.pools import PoolQuery, PoolText
from registry import SOURCES, ConfigError
from registry.ranges import FilePath

_FILES = ("collection.tsv", "queries.tsv", "qrels.txt")
_SPLITS: tuple[Split | None, ...] = ("train", "val", "test", None)


@SOURCES.register("trec")
class Trec:
    """Queries and passages from folders with `collection.tsv`, `queries.tsv` (id, tab, text) and `qrels.txt`.

    All passages form one pool, without repetitions. The files may be gzipped.

    Args:
        train: Folders with queries for training.
        val: Folders with queries for validation.
        test: Folders with queries for the test.
        path: Folders with queries that are split by the datamodule's shares.
        min_label: The lowest grade that counts as relevant in training and in metrics without grades, such as MRR; ndcg
            uses every grade above 0. TREC's Deep Learning tracks use 2.
    """

    def __init__(
        self,
        train: FilePath | list[FilePath] | None = None,
        val: FilePath | list[FilePath] | None = None,
        test: FilePath | list[FilePath] | None = None,
        path: FilePath | list[FilePath] | None = None,
        min_label: Annotated[int, Interval(ge=1, le=1000)] = 2,
    ) -> None:
        given = [[each] if isinstance(each, str) else each or [] for each in (train, val, test, path)]
        self.folders: list[tuple[Path, Split | None]] = [
            (Path(folder), split) for split, folders in zip(_SPLITS, given, strict=True) for folder in folders
        ]
        if not self.folders:
            raise ValueError("no folder: set train, val, test or path")
        self.min_label = min_label

    def fingerprint(self) -> dict[str, Any]:
        """The files and the split of each folder, and the options."""
        folders = [
            {"split": split, "files": [file.fingerprint for file in files]}
            for files, (_, split) in zip(self._files, self.folders, strict=True)
        ]
        return {"name": "trec", "folders": folders, "min_label": self.min_label}

    @property
    def own_files(self) -> list[TextFile]:
        """The user's files, for a quick check before a run."""
        return [file for files in self._files for file in files]

    def candidates(self) -> Iterator[PoolText]:
        """Yield the passages of each folder that earlier folders do not have.

        Raises:
            ConfigError: If an id occurs twice in a folder, or stands for another text in an earlier folder.
        """
        known: dict[str, bytes] = {}
        for place, (collection, _, _) in enumerate(self._files, start=1):
            earlier = [str(folder) for folder, _ in self.folders[: place - 1]]
            reader = _CollectionReader(known, earlier, last=place == len(self._files))
            for id, text in filter(None, collection.parsed(reader)):
                yield PoolText(id, text, origin=f"{collection.path}, passage {id}")

    def queries(self) -> Iterator[PoolQuery]:
        """Yield the queries of each folder, with their passages of grades above 0."""
        for (_, queries, qrels), (_, split) in zip(self._files, self.folders, strict=True):
            judged: dict[str, dict[str, float]] = {}
            for query, passage, label in read_judgements(qrels):
                grades = judged.setdefault(query, {})
                if label > 0:
                    grades[passage] = label
            for id, text in queries.parsed(read_text):
                yield PoolQuery(id, text, judged.get(id), split, origin=f"{queries.path}, query {id}")

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


class _CollectionReader:
    """Reads the lines of one folder's passages; returns None for passages that an earlier folder has.

    Args:
        known: The ids of earlier folders with the hashes of their texts; the reader adds those of this folder.
        earlier: The earlier folders.
        last: Whether this is the last folder: then nothing is added, and a later check finds repeated ids.
    """

    def __init__(self, known: dict[str, bytes], earlier: Sequence[str], *, last: bool) -> None:
        self.known, self.earlier, self.last = known, earlier, last
        self.here = set[str]()

    def __call__(self, line: str) -> tuple[str, str] | None:
        id, text = read_text(line)
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        first = self.known.get(id)
        if id in self.here:
            raise LineError("", f"the id {id!r} occurs twice", "give each passage a unique id")
        if first is not None and first != digest:
            cure = "give different passages different ids, because all folders form one pool"
            raise LineError("", f"the id {id!r} stands for another text in {' or '.join(self.earlier)}", cure)
        if first is not None or not self.last:
            self.here.add(id)
            self.known[id] = digest
        return None if first is not None else (id, text)
