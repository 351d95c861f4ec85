"""trec: passages judged by assessors, as the tracks of TREC hand them out, several years in one pool."""

import hashlib
from collections.abc import Iterator
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
    """Queries and passages of folders with `collection.tsv`, `queries.tsv` (id, tab, text) and `qrels.txt`.

    All passages are one pool; of those that several folders have, each is in it once. The files may be gzipped.

    Args:
        train: Folders whose queries train.
        val: Folders whose queries validate.
        test: Folders whose queries test.
        path: Folders whose queries are split by the datamodule's shares.
        min_label: From which grade on a passage is relevant where a metric knows no grades, such as MRR, and to train
            on; ndcg uses every grade above 0. TREC's Deep Learning tracks count from 2.
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
        """The files of each folder, which split it is for, and the options."""
        folders = [
            {"split": split, "files": [file.fingerprint for file in files]}
            for files, (_, split) in zip(self._files, self.folders, strict=True)
        ]
        return {"name": "trec", "folders": folders, "min_label": self.min_label}

    @property
    def files(self) -> list[Path]:
        """The files of the passages.

        Raises:
            ConfigError: If a folder has none.
        """
        return [collection.path for collection, _, _ in self._files]

    def candidates(self) -> Iterator[PoolText]:
        """The passages of each folder that those before it do not have.

        Raises:
            ConfigError: If an id comes twice in a folder, or stands for another text than in a folder before.
        """
        known: dict[str, bytes] = {}
        for place, (collection, _, _) in enumerate(self._files, start=1):
            reader = _CollectionReader(known, last=place == len(self._files))
            for id, text in filter(None, collection.parsed(reader)):
                yield PoolText(id, text, origin=f"{collection.path}, passage {id}")

    def queries(self) -> Iterator[PoolQuery]:
        """The queries of each folder, with the passages of grades above 0."""
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
    """Reads the lines of one folder's passages; None for those that a folder before it has.

    Args:
        known: The ids of the folders before and what their texts hash to; those of this one are added.
        last: Whether no folder comes after: then nothing new is held, and who reads on finds ids that come twice.
    """

    def __init__(self, known: dict[str, bytes], *, last: bool) -> None:
        self.known, self.last = known, last
        self.here = set[str]()

    def __call__(self, line: str) -> tuple[str, str] | None:
        id, text = read_text(line)
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        first = self.known.get(id)
        if id in self.here:
            raise LineError("", f"the id {id!r} is there twice", "give each passage an id of its own")
        if first is not None and first != digest:
            cure = "give the passages ids of their own: those of all folders are one pool"
            raise LineError("", f"the id {id!r} stands for another text in a folder before", cure)
        if first is not None or not self.last:
            self.here.add(id)
            self.known[id] = digest
        return None if first is not None else (id, text)
