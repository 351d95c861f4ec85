"""Record files: reads rows with named fields from JSON, TSV, CSV and Parquet files."""

import csv
import glob
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from features.reading.faults import Faults
from features.reading.fields import LineError, Record, unexpected
from features.reading.file_forms import GZIP, PARQUET, kind_of_lines
from features.reading.json_text import parse_object, records_of, values_in
from features.reading.lines import TextFile
from features.reading.parquet import column_names, read_columns
from registry import ConfigError
from registry.ranges import Text

T = TypeVar("T")
Columns = list[Text] | Literal["header"]
Form = Literal["json", "tsv", "csv", "parquet"]
Row = tuple[int, Record | LineError]

ENDINGS: dict[str, Form] = {
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".inter": "tsv",
    ".item": "tsv",
    ".csv": "csv",
    ".parquet": "parquet",
}
_ATOMIC = (".inter", ".item")
"""RecBole's endings; its files are separated by tabs or commas, as their first line shows."""
_LOOKED_AT = 20
# Long documents are fields too; Python's own limit is 131,072 characters.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class RecordFile:
    """One file; its extension decides its format, and its first bytes decide whether it is Parquet or gzip.

    Args:
        path: A file `.jsonl`, `.json`, `.tsv`, `.csv` or `.parquet`, or RecBole's `.inter` or `.item`; all but
            `.parquet` may be gzipped.
        tsv_columns: The columns of a TSV file, in order; `header` if its first line names them. CSV files always have a
            header.
        json_lines: Whether a file with any extension other than `.parquet` is JSON.
    """

    path: Path
    tsv_columns: Columns = "header"
    json_lines: bool = False

    @cached_property
    def text(self) -> TextFile:
        """The file as lines."""
        return TextFile(self.path)

    @cached_property
    def form(self) -> Form:
        """The format: json, tsv, csv or parquet.

        Raises:
            ConfigError: If neither the extension nor the first bytes decide it.
        """
        with self.path.open("rb") as file:
            head = file.read(8)
        if head.startswith(PARQUET):
            return "parquet"
        ending = Path(self.path.name.removesuffix(".gz")).suffix
        form = ENDINGS.get(ending)
        if self.json_lines and form != "parquet":
            return "json"
        if form is None or (form == "parquet" and head.startswith(GZIP)):
            problem = "has an unknown extension, so its format is unknown."
            raise ConfigError(str(self.path), problem, known=[*ENDINGS, ".jsonl.gz", ".tsv.gz", ".csv.gz"])
        if ending in _ATOMIC and "\t" not in (first := self.text.first_line()) and "," in first:
            return "csv"
        return form

    @property
    def fields(self) -> list[str]:
        """The names of the columns; in JSON, of all fields in the first rows.

        Raises:
            ConfigError: If lines end as on an old Mac.
        """
        if self.form == "parquet":
            return column_names(self.path)
        if self.form == "tsv" and self.tsv_columns != "header":
            return self.tsv_columns
        if self.form == "tsv":
            return [name.strip() for name in self._header.split("\t")]
        if self.form == "csv":
            return [name.strip() for name in next(csv.reader([self._header], delimiter=self._delimiter), [])]
        rows = (row for _, row in self._json() if isinstance(row, dict))
        return list(dict.fromkeys(name for row in itertools.islice(rows, _LOOKED_AT) for name in row))

    @property
    def looks_like(self) -> str:
        """What to do with a TSV file that seems to have another separator; empty for other files."""
        if self.form != "tsv" or "\t" in (first := self._header):
            return ""
        if "," in first or ";" in first:
            return "its fields are not separated by tabs: name it *.csv"
        return "separate its fields by tabs"

    def parsed(self, columns: Sequence[str], parse: Callable[[Record, str], T]) -> Iterator[T]:
        """Yield the result of `parse` for each row; skip bad rows, and report them at the end.

        Args:
            columns: The fields to read; empty for all.
            parse: Called with a row and its place; raises LineError for a bad row.

        Raises:
            ConfigError: After the last row: all mistakes, each with its rows. At once if the file is damaged, has
                another format, or lacks a column.
        """
        unit, name = self._unit, self.path.name
        faults = Faults(str(self.path), unit, name)
        return faults.parsed(self._rows(columns), lambda number, row: parse(row, f"{name}, {unit} {number}"))

    def check_end(self) -> bool:
        """Check only the last line; return whether it was found without reading all rows before it.

        Raises:
            ConfigError: If that line is not a complete row.
        """
        if self.form == "parquet":
            return True  # the index at its end was already read with the first row
        parse: Callable[[str], object] = str
        if self.form == "json" and self._one_a_line:
            parse = parse_object
        elif self.form == "tsv":
            parse = self._tsv_fields
        return self.text.check_end(parse)

    def _rows(self, columns: Sequence[str]) -> Iterator[Row]:
        if self.form == "json":
            yield from self._json()
        elif self.form == "parquet":
            rows = (row for batch in read_columns(self.path, columns) for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
        else:
            self._check_columns(columns)
            yield from self._tsv() if self.form == "tsv" else self._csv()

    @cached_property
    def _unit(self) -> str:
        if self.form == "parquet":
            return "row"
        return "item" if self.form == "json" and not self._one_a_line else "line"

    @cached_property
    def _one_a_line(self) -> bool:
        """Whether a JSON file has one object per line, rather than a list or objects over several lines.

        Raises:
            ConfigError: If the file does not begin with an object or a list.
        """
        lines = (line.strip() for line in self.text.lines())
        first, second = [*itertools.islice(filter(None, lines), 2), b"", b""][:2]
        if first[:1] not in (b"{", b"[", b""):
            shown = first.decode(errors="replace")
            problem = f"seems to be {kind_of_lines(shown)}, not JSON objects: it begins with {shown[:60]!r}."
            cure = "give it the extension .tsv or .csv if the option accepts it, or write one JSON object per line"
            raise ConfigError(str(self.path), problem, cure=cure)
        if first.startswith(b"{"):
            if not second and self._is_wrapped(first):
                return False
            # An incomplete first line is a bad line, unless the object continues in the next line.
            return first.endswith(b"}") or second.startswith(b"{")
        return False

    @staticmethod
    def _is_wrapped(line: bytes) -> bool:
        """Whether the file has one line, an object with all records in a list."""
        with suppress(LineError, UnicodeDecodeError):
            return b"[" in line and records_of(parse_object(line.decode())) is not None
        return False

    def _json(self) -> Iterator[Row]:
        if not self._one_a_line:
            yield from self._json_values()
            return
        for number, line in self.text.numbered():
            try:
                yield number, line if isinstance(line, LineError) else parse_object(line)
            except LineError as error:
                yield number, error

    def _json_values(self) -> Iterator[Row]:
        """Yield the objects of a list, also of one in `{"data": [...]}`, or one or several objects over many lines."""
        number, lines = 0, []
        try:
            for _, line in self.text.numbered(blank=True):
                if isinstance(line, LineError):
                    raise line
                lines.append(line)
            for number, value in enumerate(values_in("\n".join(lines)), start=1):
                yield number, value if isinstance(value, dict) else unexpected("", value, "an object {...}")
        except LineError as error:
            place = f"after item {number}: " if number else ""
            raise ConfigError(str(self.path), f"{place}{error}.", cure=error.cure or "correct it there") from error

    def _tsv(self) -> Iterator[Row]:
        names, lines = self.fields, self.text.numbered()
        if self.tsv_columns == "header":
            next(lines, None)
        for number, line in lines:
            try:
                yield number, line if isinstance(line, LineError) else self._tsv_fields(line, names)
            except LineError as error:
                yield number, error

    def _tsv_fields(self, line: str, names: Sequence[str] = ()) -> Record:
        names, fields = names or self.fields, line.split("\t")
        if len(fields) != len(names):
            problem = f"has {len(fields)} fields separated by tabs, expected {len(names)}: {', '.join(names)}"
            raise LineError("", problem, "it looks like JSON: name the file *.jsonl" if line.startswith("{") else "")
        return dict(zip(names, fields, strict=True))

    def _csv(self) -> Iterator[Row]:
        """Yield rows of CSV; a field in quotes may contain commas, doubled quotes, and line ends."""
        names, wrong = self.fields, []

        def decoded() -> Iterator[str]:
            for line in self.text.lines():
                try:
                    yield self.text.decoded(line) + "\n"
                except LineError as error:
                    wrong.append(error)
                    yield line.replace(b"\0", b"").decode(errors="replace") + "\n"

        reader = csv.reader(decoded(), delimiter=self._delimiter, strict=True)
        end, in_header = 0, True
        try:
            for fields in reader:
                start, end = end + 1, reader.line_num
                if wrong:
                    yield start, wrong.pop(0)
                    wrong.clear()
                    in_header = False
                elif in_header:
                    in_header = not any(field.strip() for field in fields)
                elif fields and len(fields) != len(names):
                    yield start, LineError("", f"has {len(fields)} fields, expected {len(names)}: {', '.join(names)}")
                elif fields:
                    yield start, dict(zip(names, fields, strict=True))
        except csv.Error as error:
            yield end + 1, LineError("", f"not valid CSV: {error}", "quote a field with quotes, and double these")

    @property
    def _header(self) -> str:
        first = self.text.first_line()
        if "\r" in first:
            cure = f"convert them: tr '\\r' '\\n' < {self.path.name} > NEW"
            raise ConfigError(str(self.path), "its lines end as on an old Mac, with \\r alone.", cure=cure)
        return first

    @cached_property
    def _delimiter(self) -> str:
        first = self.text.first_line()
        return max(",;\t", key=first.count)

    def _check_columns(self, columns: Sequence[str]) -> None:
        known = self.fields
        if len(set(known)) < len(known):
            twice = max(known, key=known.count)
            raise ConfigError(str(self.path), f"has two columns {twice!r}.", cure="give each column its own name")
        if missing := [name for name in columns if name not in known]:
            tsv = (
                "set candidate_tsv or query_tsv to the names of all columns, or to `header` if the first line has them"
            )
            cure = tsv if self.form == "tsv" else "name the columns in its first line"
            raise ConfigError(
                str(self.path), f"has no column {missing[0]!r}.", given=missing[0], known=known, cure=cure
            )


def find_files(paths: str | Sequence[str] | None, option: str) -> list[Path]:
    """The files of one or several paths; a path may be a pattern, whose files are sorted by name.

    Raises:
        ConfigError: If no file exists for a path.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, str) else paths or ():
        files = sorted(Path(each) for each in glob.glob(path, recursive=True))  # noqa: PTH207
        if Path(path).is_file():
            files = [Path(path)]
        if not files:
            raise ConfigError(str(path), "no such file, and no file matches it as a pattern.", cure=f"set {option}")
        if folder := next((each for each in files if not each.is_file()), None):
            cure = f"set a pattern for its files: {option}={folder}/*.jsonl"
            raise ConfigError(str(folder), "is a folder.", cure=cure)
        found += files
    return list(dict.fromkeys(found))
