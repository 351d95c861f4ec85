"""jsonl: groups from files of your own, one JSON object a line."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from features.reading.fields import LineError, Record, read_flagembedding, read_groups, read_tevatron
from features.reading.lines import TextFile
from features.reading.records import RecordFile
from features.sources.own.preference_pairs import UnusablePairError, read_preferences
from features.texts.groups import TextGroup
from registry import SOURCES, ConfigError
from registry.ranges import FilePath

FORMATS: dict[str, tuple[str, Callable[[Record, str], TextGroup]]] = {
    "groups": ("candidates", read_groups),
    "tevatron": ("positive_passages", read_tevatron),
    "flagembedding": ("pos", read_flagembedding),
    "preferences": ("chosen", read_preferences),
}
"""By name: the field that tells a line of this form from the others, and how it is read."""

_UNUSABLE = {"equal_pairs": "and rejected texts are equal", "empty_pairs": "or rejected text is empty"}


@SOURCES.register("jsonl")
class JsonLines:
    """Reads the project's own form and the forms that other tools write.

    groups: `{query_id, query, candidates: [{id, text, label?, feature?}], answer?, split?, feature?}`;
    flagembedding: `{query, pos: [text], neg?: [text]}`;
    tevatron: `{query_id, query, positive_passages: [{docid, title?, text}], negative_passages: [...]}`;
    preferences: `{prompt, chosen, rejected}`, texts or lists of messages; Anthropic's pairs of transcripts and
    LLaMA-Factory's `{conversations or instruction, chosen, rejected}` too. Other fields are ignored.

    Args:
        path: A file, gzipped or not: an object on each line, a list of objects, also inside `{"data": [...]}`, or
            Parquet. Of a folder, the files `*.jsonl` and `*.jsonl.gz` in the order of names; if it has none, `*.json`
            and `*.parquet`.
        format: Which form the lines have; `auto` tells by the first line of each file.
        equal_pairs: Whether a pair whose chosen and rejected texts are equal is an error, or is left out and counted.
        empty_pairs: Likewise, a pair whose chosen or rejected text is empty.
    """

    def __init__(
        self,
        path: FilePath,
        format: Literal["auto", "groups", "flagembedding", "tevatron", "preferences"] = "auto",
        equal_pairs: Literal["error", "drop"] = "error",
        empty_pairs: Literal["error", "drop"] = "error",
    ) -> None:
        self.path, self.format = Path(path), format
        self.unusable_pairs = {"equal_pairs": equal_pairs, "empty_pairs": empty_pairs}
        self._told = False

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
        for endings in (("*.jsonl", "*.jsonl.gz"), ("*.json", "*.parquet")):
            if files := sorted(file for ending in endings for file in self.path.glob(ending)):
                return files
        raise ConfigError(
            str(self.path), "has no file *.jsonl, *.jsonl.gz, *.json or *.parquet.", cure="set features.source.path"
        )

    @property
    def own_files(self) -> list[RecordFile]:
        """The user's files, for a look at them before a run."""
        return [RecordFile(path, json_lines=True) for path in self.files]

    def fingerprint(self) -> dict[str, Any]:
        """Each file's name, size and hash, and the options."""
        options = {option: choice for option, choice in self.unusable_pairs.items() if choice != "error"}
        return {"name": "jsonl", "format": self.format, "files": self._hashes, **options}

    def groups(self) -> Iterator[TextGroup]:
        """Every group; a bad line is passed over, and after the last line of its file all are reported.

        Raises:
            ConfigError: If a line is bad: its file, number, field, what was found and what is expected.
        """
        reader = _Reader(self.format, self.unusable_pairs)
        for path in self.files:
            found = 0
            for group in RecordFile(path, json_lines=True).parsed((), reader.of(path)):
                found += 1
                if group:
                    yield group
            if not found:
                raise ConfigError(str(path), "holds no group.", cure="set features.source.path")
        if reader.left_out and not self._told:
            self._told = True
            for option, number in reader.left_out.items():
                count = "one pair" if number == 1 else f"{number:,} pairs"
                line = f"Left out {count} whose chosen {_UNUSABLE[option]}."
                Console(stderr=True).print(line, highlight=False, soft_wrap=True)

    @cached_property
    def _hashes(self) -> list[dict[str, Any]]:
        return [TextFile(file).fingerprint for file in self.files]


@dataclass
class _Reader:
    """Reads files row after row; remembers what rows must agree on."""

    format: str
    unusable_pairs: Mapping[str, str]
    places: dict[str, str] = field(default_factory=dict)
    feature_dim: int | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    def of(self, file: Path) -> Callable[[Record, str], TextGroup | None]:
        """What reads the rows of a file; None for a pair that is left out."""
        format, stem = self.format, file.name.removesuffix(".gz").removesuffix(".jsonl")

        def read(record: Record, place: str) -> TextGroup | None:
            nonlocal format
            format = _detect(record, file, place) if format == "auto" else format
            try:
                group = FORMATS[format][1](record, f"{stem}-{place.rpartition(' ')[2]}")
            except UnusablePairError as error:
                if self.unusable_pairs[error.option] == "error":
                    raise
                self.left_out[error.option] += 1
                return None
            self._check(group, place)
            return replace(group, origin=place)

        return read

    def _check(self, group: TextGroup, place: str) -> None:
        first = self.places.setdefault(group.query_id, place)
        if first != place:
            raise LineError("query_id", f"{group.query_id!r} is that of {first} already")
        vectors = {"feature": group.feature}
        vectors |= {f"candidates[{at}].feature": each.feature for at, each in enumerate(group.candidates)}
        for name, vector in vectors.items():
            size = len(vector or ())
            if self.feature_dim is None:
                self.feature_dim = size
            if size != self.feature_dim:
                found = f"found {size} numbers" if size else "missing"
                expected = f"{self.feature_dim} numbers" if self.feature_dim else "none"
                raise LineError(name, f"{found}, expected {expected} as in the lines before")


def _detect(record: Record, file: Path, place: str) -> str:
    """The form of a file, by the fields of a line; where they tell nothing, no other line needs to be looked at."""
    for name, (key, _) in FORMATS.items():
        if key in record:
            return name
    expected = ", ".join(f"{key} ({name})" for name, (key, _) in FORMATS.items())
    found = ", ".join(list(record)[:8]) or "none"
    problem = f"its fields are {found}; expected one of {expected}."
    cure = "bring the lines into one of these forms; `python -m registry sources jsonl` shows them"
    raise ConfigError(f"{file}, {place.rpartition(', ')[2]}", problem, cure=cure)
