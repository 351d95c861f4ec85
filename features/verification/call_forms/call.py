"""Call: a function's name and its arguments; and the functions that a task offers, to read calls by."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Parameters = Mapping[str, Mapping[str, str]]
"""The parameters of each function, in order, each with its type; an empty type is unknown."""

# Namespaces of Harmony, Kimi, Gemini and OpenAI's parallel calls, Llama's method, and Kimi's number.
_PREFIX = re.compile(r"^(?:functions|default_api|tools)\.")
_SUFFIX = re.compile(r"(?:\.call|:\d+)$")
_NO_LETTER = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Call:
    """A function's name and its arguments, as plain JSON values."""

    name: str
    arguments: Mapping[str, Any]


def parameter_types(functions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The parameters of each function, in order, with their types as texts; an empty type is unknown.

    Args:
        functions: Descriptions with a JSON schema, as in BFCL and OpenAI's API, or with the parameters directly in
            `parameters`, as in xLAM.
    """
    found = {}
    for function in functions:
        described = function.get("function", function)
        schema = described.get("parameters") or {}
        properties = schema.get("properties") if isinstance(schema.get("type"), str) else schema
        found[described.get("name", "")] = {name: _type(each) for name, each in (properties or {}).items()}
    return found


def offered_name(name: str, offered: Collection[str]) -> str:
    """The name of an offered function that a model means by this name, else the name itself.

    Servers accept only letters, digits, `_` and `-`, so functions with a dot in their name are offered with `_`.

    >>> offered_name("functions.math_factorial", ["math.factorial"])
    'math.factorial'
    """
    bare = _SUFFIX.sub("", name)
    for short in (name, bare, _PREFIX.sub("", bare)):
        if short in offered:
            return short
        alike = [each for each in offered if _NO_LETTER.sub("_", each) == _NO_LETTER.sub("_", short)]
        if len(alike) == 1:
            return alike[0]
    return name


def arguments_of(value: Any) -> Mapping[str, Any] | None:
    """The arguments in a JSON value, a list of one, or a text with JSON; empty for null, [] and "", None for others.

    Models sometimes write quotes or brackets after the end of that JSON, and line ends in its texts.
    """
    for _ in range(2):  # some servers encode twice
        if not isinstance(value, str):
            break
        if not value.strip():
            return {}
        try:
            value, end = json.JSONDecoder(strict=False).raw_decode(text := value.strip())
        except (ValueError, RecursionError):
            return None
        if text[end:].strip("\"'}]` \n"):
            return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return {} if value is None or value == [] else value if isinstance(value, dict) else None


def _type(described: Any) -> str:
    kind = described.get("type", "") if isinstance(described, dict) else described
    return "|".join(map(str, kind)) if isinstance(kind, list) else kind if isinstance(kind, str) else ""
