"""Judgements: reads which candidates are relevant to which queries, in the formats of TREC and BEIR."""

import re
from collections.abc import Iterator

from features.reading.fields import LineError, stored_label
from features.reading.lines import TextFile, number

_HEADERS = {"score", "label", "relevance", "rel", "grade", "judgement", "judgment", "gain"}
_EXPECTED = "`query 0 candidate label` or `query candidate label`"
_ITERATION = re.compile(r"[Qq]?\d+(\.\d+)?|-")
"""The second of TREC's four fields, which nobody reads."""
_CURE = "separate the fields by tabs, so that ids may have spaces"


def read_judgements(file: TextFile) -> Iterator[tuple[str, str, float]]:
    """Yield query, candidate and label of each line; skip a first line that names the columns.

    All lines of a file have the same separator: tabs if the first line has a tab, so that ids may have spaces; else
    commas in a `.csv` file; else spaces. Between spaces, all lines have the same number of fields, and the second of
    four is a number or the same word in all lines; otherwise an id has a space.

    Raises:
        ConfigError: After the last line: all mistakes, each with its lines.
    """
    first = file.first_line()
    separator = "\t" if "\t" in first else "," if ".csv" in file.path.suffixes else None

    labels: dict[tuple[str, str], float] = {}
    first_fields: list[str] = []

    def parse(line: str) -> tuple[str, str, float]:
        fields = _fields(line, separator)
        if len(fields) not in (3, 4) or not all(fields):
            words = {"\t": " separated by tabs, as in the first line", ",": " separated by commas", None: ""}
            parted = words[separator]
            cure = _CURE if separator is None and len(fields) > 4 else ""
            raise LineError("", f"has {len(fields)} fields{parted}; expected {_EXPECTED}", cure)
        if separator is None and "\t" in line and len(by_tab := _fields(line, "\t")) in (3, 4) and by_tab != fields:
            raise LineError("", "is separated by tabs, but the first line by spaces; expected the same in all lines")
        if separator is None:
            _check_spaces(fields, first_fields)
            first_fields[:] = first_fields or fields
        query, candidate, label = fields[0], fields[-2], stored_label("label", number("label", fields[-1]))
        if (known := labels.setdefault((query, candidate), label)) != label:
            raise LineError("label", f"found {label:g}, but {known:g} in a line before; expected one judgement")
        return query, candidate, label

    header = [name.strip('"').lower() for name in _fields(first, separator)][-1:]
    skip = 0
    if header and header[0] in _HEADERS:
        skip = next(place for place, line in enumerate(file.lines(), start=1) if line.strip())
    return file.parsed(parse, skip=skip)


def _check_spaces(fields: list[str], first: list[str]) -> None:
    """Refuse a line of which an id seems to have a space: its parts would be read as other fields."""
    if first and len(fields) != len(first):
        raise LineError("", f"has {len(fields)} fields separated by spaces, and the first one {len(first)}", _CURE)
    if first and len(fields) == 4 and fields[1] != first[1] and not _ITERATION.fullmatch(fields[1]):
        problem = f"its second field of four is {fields[1]!r}; expected 0, as TREC has it, or {first[1]!r} as before"
        raise LineError("", problem, _CURE)


def _fields(line: str, separator: str | None) -> list[str]:
    # Other spaces, such as non-breaking ones, may be part of an id.
    parted = line.split(separator) if separator else re.split(r"[ \t]+", line.strip(" \t"))
    return [each.strip(" ") for each in parted]
