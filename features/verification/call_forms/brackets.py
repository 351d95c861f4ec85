"""Brackets: finds where a bracket in a text is closed, and the JSON or Python object in it."""

import json
import re
from typing import Any

from features.verification.call_forms.python_values import NO_PYTHON, expression_of, value_of

_MARKS = re.compile(r"""["'\\()\[\]{}]""")
# A remark, or a text in quotes, in which there is none.
_REMARK = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?<=[\s,{\[])//[^\n]*""", re.DOTALL)
_DEEPEST = 50


def end_of(text: str, start: int) -> int | None:
    """The position after the bracket that closes the one at `start`, ignoring brackets in strings; None if none does.

    >>> end_of("f(')', [1]) + 2", 1)
    11
    """
    depth, quote, escaped = 0, "", -1
    for found in _MARKS.finditer(text, start):
        mark, place = found[0], found.start()
        if quote:
            if mark == "\\" and place != escaped:
                escaped = place + 1
            elif mark == quote and place != escaped:
                quote = ""
        elif mark in "'\"":
            quote = mark
        elif mark in "([{":
            depth += 1
            if depth > _DEEPEST:
                return None
        elif mark in ")]}":
            depth -= 1
            if depth == 0:
                return place + 1
    return None


def object_at(text: str, start: int) -> tuple[Any, int]:
    """The object or list that begins at a position, and the position after it; None and the next position if none.

    JSON may have line ends in its texts. What is not JSON may be a Python literal with single quotes, True and None, or
    an object with remarks (`//`) and without quotes around its keys.
    """
    end = end_of(text, start)
    if end is None:
        return None, start + 1
    try:
        return json.loads(text[start:end], strict=False), end
    except (ValueError, RecursionError):
        pass
    try:
        return value_of(expression_of(_REMARK.sub(lambda found: found[1] or "", text[start:end]))), end
    except NO_PYTHON:
        return None, start + 1
