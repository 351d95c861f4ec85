"""JSON text: reads the objects in a text, and refuses what a lenient reader would silently drop."""

import json
from collections.abc import Iterator
from typing import Any

from features.reading.fields import LineError

_WRAPPERS = ("data", "examples", "instances", "records", "rows")


def parse_object(line: str) -> dict[str, Any]:
    """The JSON object in a line.

    Raises:
        LineError: If the line has no object, or an object with a key that has two values.
    """
    record, end = _decode(line, _skip(line, 0))
    if _skip(line, end) < len(line):
        rest = line[_skip(line, end) :].rstrip()
        found = {",": "a comma", "{": "another object"}.get(rest if rest == "," else rest[:1], "something else")
        cure = "write one object on each line, and nothing after it"
        raise LineError(
            "", f"not valid JSON lines: {found} after the object, at character {_skip(line, end) + 1}", cure
        )
    if not isinstance(record, dict):
        raise LineError("", f"found a {type(record).__name__}, expected an object {{...}}")
    return record


def values_in(text: str) -> Iterator[Any]:
    """Yield the values of a text one by one; of a list, its items; of an object `{"data": [...]}`, its records.

    Raises:
        LineError: If anything else follows.
    """
    place = _skip(text, 0)
    if place == len(text):
        raise LineError("", "holds nothing")
    value, place = _decode(text, place)
    place = _skip(text, place)
    if place == len(text):
        value = records_of(value) or value
    yield from value if isinstance(value, list) else [value]
    while place < len(text):
        value, place = _decode(text, place)
        yield from value if isinstance(value, list) else [value]
        place = _skip(text, place)


def records_of(value: Any) -> list[Any] | None:
    """The objects in an object's only list, if its key is `data` or similar; None if the object is itself a record."""
    if not isinstance(value, dict):
        return None
    lists = [name for name, field in value.items() if isinstance(field, list)]
    found = value[lists[0]] if len(lists) == 1 and lists[0] in _WRAPPERS else []
    return found if found and all(isinstance(each, dict) for each in found) else None


def _decode(text: str, start: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        lines = f"line {error.lineno}, " if "\n" in text.strip() else ""
        problem = f"not valid JSON: {error.msg.removesuffix(' at')}, {lines}character {error.colno}"
        raise LineError("", problem) from error
    except RecursionError as error:
        raise LineError("", "not valid JSON: nested too deeply") from error
    except ValueError as error:
        # Python refuses integers of more than 4,300 digits.
        raise LineError("", f"not valid JSON: {str(error).partition(';')[0]}") from error


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if found[key] != value:
                raise LineError(key, "occurs twice, with different values; expected one")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
