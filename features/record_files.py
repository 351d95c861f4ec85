"""Record files: rows with named fields from JSONL, JSON, TSV and Parquet files, whichever of these a file is."""

import glob
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from features.line_formats import LineError, Record, parse_object, unexpected
from features.parquet_files import read_columns
from features.text_files import TextFile
from registry import ConfigError
from registry.ranges import Text

T = TypeVar("T")
Columns = list[Text] | Literal["header"]

ENDINGS = {".jsonl": "jsonl", ".json": "json", ".ndjson": "jsonl", ".tsv": "tsv", ".txt": "tsv", ".parquet": "parquet"}
_MOST_SHOWN = 20


@dataclass(frozen=True)
class RecordFile:
    """One file; its ending says which form it has.

    Args:
        path: `.jsonl`, `.json`, `.tsv` or `.parquet`, the first three also with `.gz`.
        tsv_columns: The columns of a TSV file, in order; `header` where its first line names them.
    """

    path: Path
    tsv_columns: Columns = "header"

    @property
    def form(self) -> str:
        """jsonl, json, tsv or parquet.

        Raises:
            ConfigError: If the ending is another one.
        """
        ending = Path(self.path.name.removesuffix(".gz")).suffix
        if ending not in ENDINGS or (ENDINGS[ending] == "parquet" and self.path.suffix == ".gz"):
            problem = "which form it has is told by its ending, and this one is unknown."
            raise ConfigError(str(self.path), problem, known=[*ENDINGS, ".jsonl.gz", ".tsv.gz"])
        return ENDINGS[ending]

    def parsed(self, columns: Sequence[str], parse: Callable[[Record, str], T]) -> Iterator[T]:
        """What `parse` makes of each row; bad rows are passed over, and reported at the end.

        Args:
            columns: The fields that are wanted; none for all there are.
            parse: Of a row and its place; raises LineError for a bad one.

        Raises:
            ConfigError: After the last row, or the 20th bad one: every place, and what is wrong there. At once if a
                file is damaged or has no such column.
        """
        problems = []
        for place, row in getattr(self, f"_{self.form}")(columns):
            try:
                if isinstance(row, LineError):
                    raise row
                value = parse(row, place)
            except LineError as error:
                problems.append(f"{place}: {error}")
                if len(problems) == _MOST_SHOWN:
                    break
                continue
            yield value
        if problems:
            more = ", and maybe more," if len(problems) == _MOST_SHOWN else ""
            count = "one row cannot" if len(problems) == 1 else f"{len(problems)} rows{more} cannot"
            listing = "".join(f"\n  {problem}" for problem in problems)
            raise ConfigError(
                str(self.path), f"{count} be read:{listing}", cure="correct or remove what is named above"
            )

    def _jsonl(self, columns: Sequence[str]) -> Iterator[tuple[str, Record | LineError]]:
        for place, line in self._lines():
            try:
                yield place, line if isinstance(line, LineError) else parse_object(line)
            except LineError as error:
                yield place, error

    def _json(self, columns: Sequence[str]) -> Iterator[tuple[str, Record | LineError]]:
        """The objects of a list, a single one, or one a line: `.json` files come as all of these."""
        file = TextFile(self.path)
        first = next((line for line in file.lines() if line.strip()), b"")
        try:
            one_a_line = isinstance(json.loads(first), dict)
        except (ValueError, RecursionError):
            one_a_line = False
        if one_a_line:
            yield from self._jsonl(columns)
            return
        try:
            value = json.loads(b"\n".join(file.lines()))
        except (ValueError, RecursionError) as error:
            yield file.name, LineError("", f"not valid JSON: {error}")
            return
        for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
            yield (
                f"{file.name}, item {number}",
                row if isinstance(row, dict) else unexpected("", row, "an object {...}"),
            )

    def _tsv(self, columns: Sequence[str]) -> Iterator[tuple[str, Record | LineError]]:
        lines, names = self._lines(), self.tsv_columns
        if names == "header":
            _, first = next(lines, ("", ""))
            names = [] if isinstance(first, LineError) else first.split("\t")
        if missing := [name for name in columns if name not in names]:
            cure = (
                "set candidate_tsv or query_tsv to the names of all columns, or to `header` if the first line has them"
            )
            raise ConfigError(
                str(self.path), f"has no column {missing[0]!r}.", given=missing[0], known=names, cure=cure
            )
        for place, line in lines:
            fields = [] if isinstance(line, LineError) else line.split("\t")
            if isinstance(line, LineError):
                yield place, line
            elif len(fields) != len(names):
                problem = f"has {len(fields)} fields parted by tabs, expected {len(names)}: {', '.join(names)}"
                yield place, LineError("", problem)
            else:
                yield place, dict(zip(names, fields, strict=True))

    def _parquet(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        number = 0
        for batch in read_columns(self.path, columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{self.path.name}, row {number}", row

    def _lines(self) -> Iterator[tuple[str, str | LineError]]:
        file = TextFile(self.path)
        for number, line in enumerate(file.lines(), start=1):
            if line.strip():
                try:
                    yield f"{file.name}, line {number}", file.decoded(line)
                except LineError as error:
                    yield f"{file.name}, line {number}", error


def find_files(paths: str | Sequence[str] | None, option: str) -> list[Path]:
    """The files of a path or several, each of which may be a pattern, whose files come in the order of their names.

    Raises:
        ConfigError: If there is none for a path.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, str) else paths or ():
        files = sorted(Path(each) for each in glob.glob(path, recursive=True))  # noqa: PTH207
        if Path(path).is_file():
            files = [Path(path)]
        if not files:
            raise ConfigError(str(path), "no such file, and no file that fits it as a pattern.", cure=f"set {option}")
        if folder := next((each for each in files if not each.is_file()), None):
            cure = f"name its files by a pattern: {option}={folder}/*.jsonl"
            raise ConfigError(str(folder), "is a folder.", cure=cure)
        found += files
    return list(dict.fromkeys(found))
