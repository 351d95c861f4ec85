"""Fields: reads the fields of a JSON object, one line of a file, as a text group."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, get_args

from features.texts.groups import Candidate, Split, TextGroup

Record = Mapping[str, Any]
ROLES = ("assistant", "system", "tool", "user")
"""Who can speak in a chat message."""
_LARGEST, _SMALLEST = 3.4028234663852886e38, 1.1754943508222875e-38
"""The smallest and largest numbers that float32 stores with full precision."""


class LineError(Exception):
    """A mistake in a line.

    Args:
        field: The wrong field, such as `candidates[2].label`; empty for the line as a whole.
        problem: What was found, and what is expected.
        cure: What the user can do, if not simply correct the line.
    """

    def __init__(self, field: str, problem: str, cure: str = "") -> None:
        self.field, self.problem, self.cure = field, problem, cure
        super().__init__(f"{field}: {problem}" if field else problem)


def read_groups(record: Record, line_id: str) -> TextGroup:
    """`{query_id, query, answer?, split?, feature?, candidates: [{id, text, label?, feature?}]}`."""
    candidates = [
        Candidate(id_field(each, "id", at), text_field(each, "text", at), _label(each, at), feature_field(each, at))
        for at, each in _objects(record, "candidates")
    ]
    answer = record.get("answer")
    return TextGroup(
        id_field(record, "query_id"),
        text_field(record, "query"),
        _distinct(candidates),
        feature_field(record),
        answer if answer is None or isinstance(answer, str) else json.dumps(answer),
        _split(record),
    )


def read_flagembedding(record: Record, line_id: str) -> TextGroup:
    """`{query, pos: [text], neg?: [text]}`, FlagEmbedding's form; a text that occurs twice counts once, as relevant."""
    right = dict.fromkeys(_texts(record, "pos"), 1.0)
    wrong = _texts(record, "neg") if record.get("neg") is not None else ()
    labels = right | {text: 0.0 for text in wrong if text not in right}
    ids = {text: hashlib.sha256(text.encode()).hexdigest()[:16] for text in labels}
    candidates = [Candidate(ids[text], text, label) for text, label in labels.items()]
    return TextGroup(line_id, text_field(record, "query"), mixed(candidates))


def read_picks(record: Record, line_id: str) -> TextGroup:
    """`{query, candidates: [text], picked: number or [number], split?}`: what a user chose, counted from 0."""
    shown, picked = _texts(record, "candidates"), record["picked"]
    places = picked if isinstance(picked, list) else [picked]
    for place in places:
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(shown):
            raise unexpected("picked", picked, f"the numbers of candidates, from 0 to {len(shown) - 1}")
    if len(set(shown)) < len(shown):
        raise LineError("candidates", f"{max(shown, key=shown.count)!r} is there twice; expected different texts")
    candidates = [Candidate(str(place), text, float(place in places)) for place, text in enumerate(shown)]
    query_id = id_field(record, "query_id") if "query_id" in record else line_id
    return TextGroup(query_id, text_field(record, "query"), candidates, split=_split(record))


def read_tevatron(record: Record, line_id: str) -> TextGroup:
    """`{query_id, query, positive_passages: [{docid, title?, text}], negative_passages: [...]}`, Tevatron's form.

    A text that occurs in both counts as relevant, and only once.
    """
    candidates: list[Candidate] = []
    for label, key in ((1.0, "positive_passages"), (0.0, "negative_passages")):
        for at, passage in _objects(record, key, optional=True):
            title = passage.get("title") or ""
            if not isinstance(title, str):
                raise unexpected(f"{at}title", title, "text")
            # A title without text is allowed.
            text = "" if title.strip() and not passage.get("text") else text_field(passage, "text", at)
            text = unicode_text(f"{at}title", f"{title} {text}".strip())
            candidates.append(Candidate(id_field(passage, "docid", at), text, label))
    right = {each.text for each in candidates if each.label}
    _distinct(candidates)
    candidates = [each for each in candidates if each.label or each.text not in right]
    if not candidates:
        raise LineError("positive_passages", "no passage here or in negative_passages; expected at least one")
    return TextGroup(id_field(record, "query_id"), text_field(record, "query"), mixed(candidates))


def _get(record: Record, key: str, at: str, expected: str) -> Any:
    if key not in record:
        raise LineError(at + key, f"missing; expected {expected}")
    return record[key]


def text_field(record: Record, key: str, at: str = "") -> str:
    """A field that must be a text.

    Args:
        record: A line, or an object in it.
        key: The name of the field.
        at: The prefix of the record's field names in errors.

    Raises:
        LineError: If the field is missing, not a text, empty, or not valid Unicode.
    """
    return checked_text(at + key, _get(record, key, at, "text"))


def checked_text(field: str, value: Any) -> str:
    """A value that must be a text."""
    if not isinstance(value, str):
        raise unexpected(field, value, "text")
    if not value.strip():
        raise LineError(field, "empty; expected text")
    return unicode_text(field, value)


def unicode_text(field: str, value: str) -> str:
    """A text that can be written as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise LineError(field, f"half of a surrogate pair at character {error.start}; expected Unicode") from error
    return value


def role_field(record: Record, at: str = "") -> str:
    """The role of a chat message."""
    role = record.get("role")
    if role not in ROLES:
        raise unexpected(f"{at}role", role, f"one of {', '.join(ROLES)}")
    return role


def id_field(record: Record, key: str, at: str = "") -> str:
    """A field that must be a text or an integer, as text."""
    return as_id(at + key, _get(record, key, at, "text or a whole number"))


def as_id(field: str, value: Any) -> str:
    """A value that must be a text or an integer, as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise unexpected(field, value, "text or a whole number")
    return checked_text(field, value)


def _split(record: Record) -> Split | None:
    split = record.get("split")
    if split not in (None, *get_args(Split)):
        raise unexpected("split", split, "train, val or test")
    return split


def _label(record: Record, at: str) -> float | None:
    value = record.get("label")
    return None if value is None else as_label(f"{at}label", value)


def as_label(field: str, value: Any) -> float:
    """A value that must be a label: a number, true or false, that a store can hold."""
    return stored_label(field, float(value) if isinstance(value, bool) else as_number(field, value))


def stored_label(field: str, label: float) -> float:
    """Check that a store can hold a label: float32 must not turn it into infinity, or into 0 unless it is 0."""
    if abs(label) > _LARGEST or 0 < abs(label) < _SMALLEST:
        problem = f"found {label:g}, which float32 cannot hold; expected 0 or a size from {_SMALLEST:g} to {_LARGEST:g}"
        raise LineError(field, problem)
    return label


def as_number(field: str, value: Any) -> float:
    """A value that must be a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise unexpected(field, value, "a number")
    return as_finite(field, value)


def as_finite(field: str, value: int | float) -> float:
    """A number that must be finite."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise LineError(field, f"found {str(value)[:40]}, expected a finite number")
    return number


def feature_field(record: Record, at: str = "", key: str = "feature") -> list[float] | None:
    """A field that may be a vector; None if it is missing."""
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise unexpected(f"{at}{key}", value, "a list of numbers")
    vector = [as_number(f"{at}{key}[{place}]", each) for place, each in enumerate(value)]
    if (place := next((place for place, each in enumerate(vector) if abs(each) > _LARGEST), None)) is not None:
        problem = f"found {vector[place]:g}, which float32 cannot hold; expected a size of at most {_LARGEST:g}"
        raise LineError(f"{at}{key}[{place}]", problem)
    return vector


def _objects(record: Record, key: str, *, optional: bool = False) -> list[tuple[str, Record]]:
    """The objects of a list, each with the prefix of its field names."""
    value = _get(record, key, "", "a list of objects") if not optional else record.get(key) or []
    if not isinstance(value, list) or (not value and not optional):
        raise unexpected(key, value, "a list of objects, at least one")
    for place, each in enumerate(value):
        if not isinstance(each, dict):
            raise unexpected(f"{key}[{place}]", each, "an object")
    return [(f"{key}[{place}].", each) for place, each in enumerate(value)]


def _texts(record: Record, key: str) -> list[str]:
    value = _get(record, key, "", "a list of texts")
    if not isinstance(value, list) or (not value and key != "neg"):
        raise unexpected(key, value, "a list of texts")
    return [checked_text(f"{key}[{place}]", each) for place, each in enumerate(value)]


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    ids = [candidate.id for candidate in candidates]
    if len(set(ids)) < len(ids):
        twice = max(ids, key=ids.count)
        raise LineError("candidates", f"two have the id {twice!r}; expected each id once per query")
    return candidates


def mixed(candidates: list[Candidate]) -> list[Candidate]:
    """Sort candidates by the hashes of their texts: files list relevant ones first, and the order is a baseline."""
    return sorted(candidates, key=lambda candidate: hashlib.sha256(candidate.text.encode()).digest())


def unexpected(field: str, value: Any, expected: str) -> LineError:
    """The error for a value of another type than expected."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return LineError(field, f"found {shown if len(shown) <= 40 else shown[:37] + '...'}, expected {expected}")
