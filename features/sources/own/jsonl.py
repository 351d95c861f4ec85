"""jsonl: reads groups from your own files, one JSON object per line."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from features.reading.fields import LineError, Record, read_flagembedding, read_groups, read_picks, read_tevatron
from features.reading.lines import TextFile
from features.reading.records import RecordFile
from features.sources.own.preference_pairs import UnusablePairError, read_preferences
from features.texts.groups import Candidate, TextGroup
from registry import SOURCES, ConfigError
from registry.ranges import FilePath

FORMATS: dict[str, tuple[str, Callable[[Record, str], TextGroup]]] = {
    "picks": ("picked", read_picks),
    "groups": ("candidates", read_groups),
    "tevatron": ("positive_passages", read_tevatron),
    "flagembedding": ("pos", read_flagembedding),
    "preferences": ("chosen", read_preferences),
}
"""For each form: the field that only its lines have, and the function that reads a line."""

_UNUSABLE = {
    "equal_pairs": ("pair", "chosen and rejected texts are equal"),
    "empty_pairs": ("pair", "chosen or rejected text is empty"),
    "empty_candidates": ("candidate", "text is empty"),
    "equal_candidates": ("candidate", "text is that of another with a higher label"),
}


@SOURCES.register("jsonl")
class JsonLines:
    """Reads this project's form and the forms of other tools.

    groups: `{query_id, query, candidates: [{id, text, label?, feature?}], answer?, split?, feature?}`;
    picks: `{query, candidates: [text], picked: number or [number], query_id?, split?}`, what a user chose;
    flagembedding: `{query, pos: [text], neg?: [text]}`;
    tevatron: `{query_id, query, positive_passages: [{docid, title?, text}], negative_passages: [...]}`;
    preferences: `{prompt, chosen, rejected}`, texts or lists of messages; Anthropic's pairs of transcripts and
    LLaMA-Factory's `{conversations or instruction, chosen, rejected}` too. Other fields are ignored.

    Args:
        path: A file, gzipped or not, with one object per line, a list of objects, or `{"data": [...]}`; or a Parquet
            file; or a folder, whose files `*.jsonl` and `*.jsonl.gz` are read in the order of names, or, if it has
            none, `*.json` and `*.parquet`.
        format: The form of the lines; `auto` recognizes it by the first line of each file.
        equal_pairs: Pairs with equal chosen and rejected texts: `error` refuses them, `drop` leaves them out and prints
            their number.
        empty_pairs: Pairs with an empty chosen or rejected text: `error` refuses them, `drop` leaves them out and
            prints their number.
        empty_candidates: Candidates of `groups` with an empty text, such as empty responses: `error` refuses them,
            `drop` leaves them out and prints their number.
        equal_candidates: Candidates of `groups` with equal texts and different labels, which no ranker can tell apart:
            `error` refuses them, `drop` keeps those with the highest label and prints the number of others.
    """

    def __init__(
        self,
        path: FilePath,
        format: Literal["auto", "groups", "picks", "flagembedding", "tevatron", "preferences"] = "auto",
        equal_pairs: Literal["error", "drop"] = "error",
        empty_pairs: Literal["error", "drop"] = "error",
        empty_candidates: Literal["error", "drop"] = "error",
        equal_candidates: Literal["error", "drop"] = "error",
    ) -> None:
        self.path, self.format = Path(path), format
        self.unusable = {
            "equal_pairs": equal_pairs,
            "empty_pairs": empty_pairs,
            "empty_candidates": empty_candidates,
            "equal_candidates": equal_candidates,
        }
        self._told = False

    @cached_property
    def files(self) -> list[Path]:
        """The files to read.

        Raises:
            ConfigError: If there are none.
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
        """The user's files, for a quick check before a run."""
        return [RecordFile(path, json_lines=True) for path in self.files]

    def fingerprint(self) -> dict[str, Any]:
        """The name, size and hash of each file, and the options."""
        options = {option: choice for option, choice in self.unusable.items() if choice != "error"}
        return {"name": "jsonl", "format": self.format, "files": self._hashes, **options}

    def groups(self) -> Iterator[TextGroup]:
        """Yield every group; skip bad lines, and report them after the last line of a file.

        Raises:
            ConfigError: If lines are bad; names the file, line, field, what was found and what is expected.
        """
        reader = _Reader(self.format, self.unusable)
        for path in self.files:
            found = 0
            for group in RecordFile(path, json_lines=True).parsed((), reader.of(path)):
                found += 1
                if group:
                    yield group
            if not found:
                raise ConfigError(str(path), "has no group.", cure="set features.source.path")
        if reader.left_out and not self._told:
            self._told = True
            for option, number in reader.left_out.items():
                thing, whose = _UNUSABLE[option]
                count = f"one {thing}" if number == 1 else f"{number:,} {thing}s"
                line = f"Left out {count} whose {whose}."
                Console(stderr=True).print(line, highlight=False, soft_wrap=True)

    @cached_property
    def _hashes(self) -> list[dict[str, Any]]:
        return [TextFile(file).fingerprint for file in self.files]


@dataclass
class _Reader:
    """Reads files row by row, and checks that rows are consistent with each other."""

    format: str
    unusable: Mapping[str, str]
    places: dict[str, str] = field(default_factory=dict)
    feature_dim: int | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    def of(self, file: Path) -> Callable[[Record, str], TextGroup | None]:
        """The function that reads the rows of a file; it returns None for a pair that is left out."""
        format, stem = self.format, file.name.removesuffix(".gz").removesuffix(".jsonl")

        def read(record: Record, place: str) -> TextGroup | None:
            nonlocal format
            format = _detect(record, file, place) if format == "auto" else format
            if format != "preferences" and "query" in record and record.get("messages") is not None:
                cure = "leave one of them out; the source `problems` reads messages"
                raise LineError("messages", "given together with query; expected only query", cure)
            if format == "groups":
                record = self._without_empty(record)
            try:
                group = FORMATS[format][1](record, f"{stem}-{place.rpartition(' ')[2]}")
            except UnusablePairError as error:
                if self.unusable[error.option] == "error":
                    raise
                self.left_out[error.option] += 1
                return None
            self._check(group, place)
            if format == "groups":
                group = self._without_contradictions(group)
            return replace(group, origin=place)

        return read

    def _without_empty(self, record: Record) -> Record:
        """The record without candidates that have an empty text.

        Raises:
            LineError: If there are some, and the option does not say to leave them out.
        """
        given = record.get("candidates")
        if not isinstance(given, list) or not (empty := [at for at, each in enumerate(given) if _has_empty_text(each)]):
            return record
        if self.unusable["empty_candidates"] == "error":
            cure = "give them texts, or leave them out: features.source.empty_candidates=drop"
            raise LineError(f"candidates[{empty[0]}].text", "empty; expected text", cure)
        self.left_out["empty_candidates"] += len(empty)
        return {**record, "candidates": [each for each in given if not _has_empty_text(each)]}

    def _without_contradictions(self, group: TextGroup) -> TextGroup:
        """The group without candidates whose text another one has with a higher label.

        Raises:
            LineError: If there are some, and the option does not say to leave them out.
        """
        best: dict[Any, Candidate] = {}
        labelled = [each for each in group.candidates if each.label is not None]
        for each in labelled:
            other = best.setdefault(_seen(each), each)
            if other.label != each.label and self.unusable["equal_candidates"] == "error":
                problem = f"{other.id!r} and {each.id!r} have the same text, but the labels {other.label:g} and "
                cure = "give them one label, or keep the highest: features.source.equal_candidates=drop"
                raise LineError("candidates", f"{problem}{each.label:g}; expected different texts", cure)
            best[_seen(each)] = max(other, each, key=lambda candidate: candidate.label or 0.0)
        kept = [each for each in group.candidates if each.label is None or each.label == best[_seen(each)].label]
        if len(kept) < len(group.candidates):
            self.left_out["equal_candidates"] += len(group.candidates) - len(kept)
        return replace(group, candidates=kept)

    def _check(self, group: TextGroup, place: str) -> None:
        first = self.places.setdefault(group.query_id, place)
        if first != place:
            raise LineError("query_id", f"{group.query_id!r} was already used in {first}")
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


def _seen(candidate: Candidate) -> Any:
    """What a ranker sees of a candidate."""
    return candidate.text, tuple(candidate.feature or ())


def _has_empty_text(candidate: Any) -> bool:
    text = candidate.get("text") if isinstance(candidate, dict) else None
    return isinstance(text, str) and not text.strip()


def _detect(record: Record, file: Path, place: str) -> str:
    """The form of a file, by the fields of its first line."""
    for name, (key, _) in FORMATS.items():
        if key in record:
            return name
    expected = ", ".join(f"{key} ({name})" for name, (key, _) in FORMATS.items())
    found = ", ".join(list(record)[:8]) or "none"
    problem = f"its fields are {found}; expected one of {expected}."
    cure = "convert the lines to one of these forms; `python -m registry sources jsonl` shows them"
    raise ConfigError(f"{file}, {place.rpartition(', ')[2]}", problem, cure=cure)
