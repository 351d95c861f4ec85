"""jsonl: groups from files of your own, one JSON object a line."""

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from features.line_formats import FORMATS, LineError, parse_object
from features.text_groups import TextGroup
from ranking.store_files import sha256_of
from registry import SOURCES, ConfigError
from registry.ranges import FilePath

_MOST_SHOWN = 20


@SOURCES.register("jsonl")
class JsonLines:
    """Reads the project's own form and the forms that other tools write.

    groups: `{query_id, query, candidates: [{id, text, label?, feature?}], answer?, split?, feature?}`;
    flagembedding: `{query, pos: [text], neg?: [text]}`;
    tevatron: `{query_id, query, positive_passages: [{docid, title?, text}], negative_passages: [...]}`;
    preferences: `{prompt, chosen, rejected}`, texts or lists of messages. Other fields are ignored.

    Args:
        path: A file, `.gz` or not, or a folder, whose files `*.jsonl` and `*.jsonl.gz` are read in the order of names.
        format: Which form the lines have; `auto` tells by the first line of each file.
    """

    def __init__(
        self, path: FilePath, format: Literal["auto", "groups", "flagembedding", "tevatron", "preferences"] = "auto"
    ) -> None:
        self.path, self.format = Path(path), format

    @cached_property
    def files(self) -> list[Path]:
        """What is read.

        Raises:
            ConfigError: If there is nothing.
        """
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise ConfigError(str(self.path), "no such file or folder.", cure="set features.source.path")
        files = sorted(file for ending in ("*.jsonl", "*.jsonl.gz") for file in self.path.glob(ending))
        if not files:
            raise ConfigError(str(self.path), "has no file *.jsonl or *.jsonl.gz.", cure="set features.source.path")
        return files

    def fingerprint(self) -> dict[str, Any]:
        """Each file's name, size and hash."""
        return {"name": "jsonl", "format": self.format, "files": self._hashes}

    def groups(self) -> Iterator[TextGroup]:
        """Every group; a bad line is passed over, and after the last line, or the 20th bad one, all are reported.

        Raises:
            ConfigError: If a line is bad: its file, number, field, what was found and what is expected.
        """
        reader, problems = _Reader(self.format), []
        for file in self.files:
            for place, found in reader.read(file):
                if isinstance(found, TextGroup):
                    yield found
                    continue
                problems.append(f"{place}: {found}")
                if len(problems) == _MOST_SHOWN:
                    raise self._error(problems)
        if problems:
            raise self._error(problems)

    @cached_property
    def _hashes(self) -> list[dict[str, Any]]:
        return [{"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in self.files]

    def _error(self, problems: list[str]) -> ConfigError:
        more = ", and maybe more," if len(problems) == _MOST_SHOWN else ""
        count = "one line cannot" if len(problems) == 1 else f"{len(problems)} lines{more} cannot"
        listing = "".join(f"\n  {problem}" for problem in problems)
        return ConfigError(str(self.path), f"{count} be read:{listing}", cure="correct or remove what is named above")


class _Reader:
    """Reads files line after line; remembers what lines must agree on."""

    def __init__(self, format: str) -> None:
        self.format = format
        self.places: dict[str, str] = {}
        self.feature_dim: int | None = None

    def read(self, file: Path) -> Iterator[tuple[str, TextGroup | LineError]]:
        """Each line that is not blank: its place, and its group or what is wrong with it."""
        format, number, stem = self.format, 0, file.name.removesuffix(".gz").removesuffix(".jsonl")
        try:
            with _opened(file) as lines:
                for number, line in enumerate(lines, start=1):
                    place = f"{file.name}, line {number}"
                    try:
                        if line.isspace():
                            continue
                        record = _parse(line)
                        format = _detect(record, file, number) if format == "auto" else format
                        group = FORMATS[format][1](record, f"{stem}-{number}")
                        self._check(group, place)
                        yield place, replace(group, origin=place)
                    except LineError as error:
                        yield place, error
        except (OSError, EOFError, zlib.error) as error:
            yield f"{file.name}, after line {number}", LineError("", f"the file cannot be read on ({error})")
            return
        if number == 0:
            yield file.name, LineError("", "the file is empty")

    def _check(self, group: TextGroup, place: str) -> None:
        first = self.places.setdefault(group.query_id, place)
        if first != place:
            raise LineError("query_id", f"{group.query_id!r} is that of {first} already")
        vectors = {"feature": group.feature}
        vectors |= {f"candidates[{at}].feature": each.feature for at, each in enumerate(group.candidates)}
        for field, vector in vectors.items():
            size = len(vector or ())
            if self.feature_dim is None:
                self.feature_dim = size
            if size != self.feature_dim:
                found = f"found {size} numbers" if size else "missing"
                expected = f"{self.feature_dim} numbers" if self.feature_dim else "none"
                raise LineError(field, f"{found}, expected {expected} as in the lines before")


def _opened(file: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def _parse(line: bytes) -> dict[str, Any]:
    if line.startswith(b"\xef\xbb\xbf"):
        raise LineError("", "begins with a byte order mark; expected UTF-8 without one")
    try:
        return parse_object(line.decode())
    except UnicodeDecodeError as error:
        raise LineError("", f"not UTF-8: byte {line[error.start]:#04x} at {error.start}") from error


def _detect(record: dict[str, Any], file: Path, number: int) -> str:
    """The form of a file, by the fields of a line; where they tell nothing, no other line needs to be looked at."""
    for name, (field, _) in FORMATS.items():
        if field in record:
            return name
    expected = ", ".join(f"{field} ({name})" for name, (field, _) in FORMATS.items())
    found = ", ".join(list(record)[:8]) or "none"
    problem = f"its fields are {found}; expected one of {expected}."
    cure = "bring the lines into one of these forms; `python -m registry sources jsonl` shows them"
    raise ConfigError(f"{file}, line {number}", problem, cure=cure)
