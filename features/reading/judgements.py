"""Judgements: which candidates are relevant to which queries, as TREC and BEIR write them, one a line."""

import re
from collections.abc import Iterator

from features.reading.fields import LineError, stored_label
from features.reading.lines import TextFile, number

_HEADERS = {"score", "label", "relevance", "rel", "grade", "judgement", "judgment", "gain"}
_EXPECTED = "`query 0 candidate label` or `query candidate label`"


def read_judgements(file: TextFile) -> Iterator[tuple[str, str, float]]:
    """Query, candidate and label of each line; a first line that names the columns is passed over.

    What parts the fields is one for the whole file: tabs if the first line has some, so that ids may hold blanks; else
    commas in a file `.csv`; else blanks.

    Raises:
        ConfigError: After the last line: every fault, with the lines that have it.
    """
    first = file.first_line()
    separator = "\t" if "\t" in first else "," if ".csv" in file.path.suffixes else None

    labels: dict[tuple[str, str], float] = {}

    def parse(line: str) -> tuple[str, str, float]:
        fields = _fields(line, separator)
        if len(fields) not in (3, 4) or not all(fields):
            parted = {"\t": " parted by tabs, as in the first line", ",": " parted by commas", None: ""}[separator]
            raise LineError("", f"has {len(fields)} fields{parted}; expected {_EXPECTED}")
        if separator is None and "\t" in line and len(by_tab := _fields(line, "\t")) in (3, 4) and by_tab != fields:
            raise LineError("", "is parted by tabs, and the first line by blanks; expected one for the whole file")
        query, candidate, label = fields[0], fields[-2], stored_label("label", number("label", fields[-1]))
        if (known := labels.setdefault((query, candidate), label)) != label:
            raise LineError("label", f"found {label:g}, and {known:g} in a line before; expected one judgement")
        return query, candidate, label

    header = [name.strip('"').lower() for name in _fields(first, separator)][-1:]
    skip = 0
    if header and header[0] in _HEADERS:
        skip = next(place for place, line in enumerate(file.lines(), start=1) if line.strip())
    return file.parsed(parse, skip=skip)


def _fields(line: str, separator: str | None) -> list[str]:
    # Other blanks, such as those that do not break, may be part of an id.
    parted = line.split(separator) if separator else re.split(r"[ \t]+", line.strip(" \t"))
    return [each.strip(" ") for each in parted]
