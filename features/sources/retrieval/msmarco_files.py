"""Passage files: reads the formats in which MS MARCO's queries and passages are published."""

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from features.reading.fields import LineError
from features.reading.judgements import read_judgements
from features.reading.lines import TextFile, find_file
from features.reading.parquet import read_columns
from registry import ConfigError

Part = Literal["train", "dev"]
_NAMES: dict[Part, tuple[str, ...]] = {"train": ("train",), "dev": ("dev.small", "dev")}

_BOTH = "collectionandqueries.tar.gz"
_ARCHIVES = {
    "collection.tsv": (_BOTH, "collection.tar.gz"),
    "queries.train.tsv": (_BOTH, "queries.tar.gz"),
    "queries.dev.small.tsv": (_BOTH,),
    "queries.dev.tsv": (_BOTH, "queries.tar.gz"),
    "qrels.train.tsv": (_BOTH,),
    "qrels.dev.small.tsv": (_BOTH,),
    "qrels.dev.tsv": (),
}


@runtime_checkable
class Passages(Protocol):
    """Queries and passages with ids, in two parts."""

    def fingerprint(self) -> dict[str, Any]:
        """The hashes of the files."""
        ...

    def answered(self, part: Part) -> Iterator[str]:
        """Yield the ids of the queries that have a relevant passage."""
        ...

    def queries(self, part: Part, chosen: Container[str]) -> Iterator[tuple[str, str, list[str]]]:
        """Yield id, text and relevant passages of each chosen query that has any."""
        ...

    def passages(self, chosen: Container[str] | None) -> Iterator[tuple[str, str]]:
        """Yield id and text of each passage listed with the chosen queries, once; for None, of all passages."""
        ...


class Collection:
    """The passage collection: `collection.tsv`, `queries.*.tsv` and `qrels.*.tsv`, plain or in their archives.

    Args:
        folder: The folder of the files.
        parts: The parts of the queries to read; dev means dev.small if it exists.
    """

    def __init__(self, folder: Path, parts: Sequence[Part]) -> None:
        self.folder, self.parts = folder, parts

    @property
    def is_there(self) -> bool:
        """Whether the folder has such files."""
        return find_file(self.folder, "collection.tsv", _ARCHIVES["collection.tsv"]) is not None

    def fingerprint(self) -> dict[str, Any]:
        """The names, sizes and hashes of the files."""
        files = [self._collection, *(file(part) for part in self.parts for file in (self._queries, self._qrels))]
        distinct = {file.path: file for file in files}
        return {"files": [file.fingerprint for file in distinct.values()]}

    def answered(self, part: Part) -> Iterator[str]:
        """Yield the ids of the queries that have a judgement above 0."""
        yield from self._relevant[part]

    def queries(self, part: Part, chosen: Container[str]) -> Iterator[tuple[str, str, list[str]]]:
        """Yield the chosen queries, in the order of their file."""
        relevant = self._relevant[part]
        for id, text in self._queries(part).parsed(read_text):
            if id in chosen and id in relevant:
                yield id, text, relevant[id]

    def passages(self, chosen: Container[str] | None) -> Iterator[tuple[str, str]]:
        """Yield the passages in the order of the collection."""
        if chosen is not None:
            problem = "the passage collection does not list passages by query."
            cure = "set features.source.pool=collection, and num_candidates for a smaller pool"
            raise ConfigError("features.source.pool", problem, cure=cure)
        yield from self._collection.parsed(read_text)

    @property
    def _collection(self) -> TextFile:
        return self._file("collection.tsv")

    def _queries(self, part: Part) -> TextFile:
        return self._file(*(f"queries.{name}.tsv" for name in _NAMES[part]))

    def _qrels(self, part: Part) -> TextFile:
        return self._file(*(f"qrels.{name}.tsv" for name in _NAMES[part]))

    def _file(self, *names: str) -> TextFile:
        for name in names:
            if found := find_file(self.folder, name, _ARCHIVES[name]):
                return found
        cure = f"put it there, plain or as .gz; {_BOTH} has it, too"
        raise ConfigError(str(self.folder), f"has no {' or '.join(names)}.", cure=cure)

    @cached_property
    def _relevant(self) -> dict[Part, dict[str, list[str]]]:
        relevant: dict[Part, dict[str, list[str]]] = {}
        for part in self.parts:
            found = relevant.setdefault(part, {})
            for query, passage, label in read_judgements(self._qrels(part)):
                if label > 0:
                    found.setdefault(query, []).append(passage)
        return relevant


@dataclass(frozen=True)
class Answers:
    """The question-answering form on the Hugging Face hub: Parquet rows of `query_id, query, passages`.

    A passage's id is a hash of its text, so that equal passages are one candidate.

    Args:
        folder: The folder with `*train*.parquet` and `*validation*.parquet`.
        parts: The parts to read; `dev` is `validation`.
    """

    folder: Path
    parts: Sequence[Part]

    @property
    def is_there(self) -> bool:
        """Whether the folder has such files."""
        return any(self._files(part) for part in self.parts)

    def fingerprint(self) -> dict[str, Any]:
        """The names, sizes and hashes of the files."""
        return {"files": [TextFile(file).fingerprint for part in self.parts for file in self._files(part)]}

    def answered(self, part: Part) -> Iterator[str]:
        """Yield the ids of the queries that have a selected passage."""
        for row in self._rows(part, ["query_id", "passages.is_selected"]):
            if any(row["passages"]["is_selected"] or ()):
                yield str(row["query_id"])

    def queries(self, part: Part, chosen: Container[str]) -> Iterator[tuple[str, str, list[str]]]:
        """Yield the chosen queries, in the order of their files."""
        for row in self._rows(part, ["query_id", "query", "passages"], chosen):
            relevant = [_id(text) for text, selected in _passages(row) if selected]
            if relevant and row["query"].strip():
                yield str(row["query_id"]), row["query"].strip(), list(dict.fromkeys(relevant))

    def passages(self, chosen: Container[str] | None) -> Iterator[tuple[str, str]]:
        """Yield the passages of the queries, each at its first occurrence."""
        seen: set[int] = set()
        for part in self.parts:
            for row in self._rows(part, ["query_id", "passages"], chosen):
                for text, _ in _passages(row):
                    id = _id(text)
                    if (key := int(id, 16)) not in seen:
                        seen.add(key)
                        yield id, text

    def _rows(self, part: Part, columns: list[str], chosen: Container[str] | None = None) -> Iterator[dict[str, Any]]:
        for file in self._files(part):
            for batch in read_columns(file, columns):
                if chosen is not None:
                    ids = batch.column("query_id").to_pylist()
                    batch = batch.take([place for place, id in enumerate(ids) if str(id) in chosen])
                yield from batch.to_pylist()

    def _files(self, part: Part) -> list[Path]:
        word = "validation" if part == "dev" else part
        files = sorted(self.folder.rglob("*.parquet"))
        return [file for file in files if word in file.relative_to(self.folder).as_posix()]


def _passages(row: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    for text, selected in zip(row["passages"]["passage_text"], row["passages"]["is_selected"], strict=True):
        if text.strip():
            yield text.strip(), bool(selected)


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_text(line: str) -> tuple[str, str]:
    """The id and text of a line `id, tab, text`."""
    id, tab, text = line.partition("\t")
    if not tab or not id or not text.strip():
        raise LineError("", "expected an id, a tab and a text")
    return id, text
