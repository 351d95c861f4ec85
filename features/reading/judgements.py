"""Judgements: reads which candidates are relevant to which queries, in the formats of TREC and BEIR."""

import re
from collections.abc import Iterator

from features.reading.fields import LineError, stored_label
from features.reading.lines import TextFile, number

_HEADERS = {"score", "label", "relevance", "rel", "grade", "judgement", "judgment", "gain"}
_EXPECTED = "`query 0 candidate label` or `query candidate label`"


def read_judgements(file: TextFile) -> Iterator[tuple[str, str, float]]:
    """Yield query, candidate and label of each line; skip a first line that names the columns.

    All lines of a file have the same separator: tabs if the first line has a tab, so that ids may have spaces; else
    commas in a `.csv` file; else spaces.

    Raises:
        ConfigError: After the last line: all mistakes, each with its lines.
    """
    first = file.first_line()
    separator = "\t" if "\t" in first else "," if ".csv" in file.path.suffixes else None

    labels: dict[tuple[str, str], float] = {}

    def parse(line: str) -> tuple[str, str, float]:
        fields = _fields(line, separator)
        if len(fields) not in (3, 4) or not all(fields):
            words = {"\t": " separated by tabs, as in the first line", ",": " separated by commas", None: ""}
            parted = words[separator]
            raise LineError("", f"has {len(fields)} fields{parted}; expected {_EXPECTED}")
        if separator is None and "\t" in line and len(by_tab := _fields(line, "\t")) in (3, 4) and by_tab != fields:
            raise LineError("", "is separated by tabs, but the first line by spaces; expected the same in all lines")
        query, candidate, label = fields[0], fields[-2], stored_label("label", number("label", fields[-1]))
        if (known := labels.setdefault((query, candidate), label)) != label:
            raise LineError("label", f"found {label:g}, but {known:g} in a line before; expected one judgement")
        return query, candidate, label

    header = [name.strip('"').lower() for name in _fields(first, separator)][-1:]
    skip = 0
    if header and header[0] in _HEADERS:
        skip = next(place for place, line in enumerate(file.lines(), start=1) if line.strip())
    return file.parsed(parse, skip=skip)


def _fields(line: str, separator: str | None) -> list[str]:
    # Other spaces, such as non-breaking ones, may be part of an id.
    parted = line.split(separator) if separator else re.split(r"[ \t]+", line.strip(" \t"))
    return [each.strip(" ") for each in parted]
