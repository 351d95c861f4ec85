"""Calls: finds the function calls in a text, in all notations."""

import html
import json
from collections.abc import Collection
from contextlib import suppress

from features.verification.answers import without_thoughts
from features.verification.call_forms.call import Call, Parameters, offered_name
from features.verification.call_forms.json_calls import json_calls
from features.verification.call_forms.python_calls import python_calls
from features.verification.call_forms.tagged_calls import tagged_calls

_LONGEST = 100_000


def calls_in(text: str, parameters: Parameters | None = None, names: Collection[str] = ()) -> list[Call]:
    """All calls in a text, in order, with any text around them; a model's thoughts before its answer are ignored.

    The tags and special tokens of chat templates have priority over JSON, and JSON over Python.

    JSON is `{"name": ..., "arguments": {...}}`, alone, in lists, line by line, between tags or fences, in other
    objects, with other words for both, as the `function` of a tool call, whose arguments may be a text with JSON, or as
    a Python literal; or `{name: arguments}` if the function is known. Python's `name(parameter=value)`, alone or in
    lists, may have positional arguments if the names of the parameters are known, or one object with all arguments.
    Names are those of the offered functions if they differ only by a namespace, or by `_` for a dot.

    Args:
        text: A response.
        parameters: The parameters of the offered functions.
        names: Names of further functions that are known, but not their parameters.
    """
    text, parameters = _plain(without_thoughts(text)[-_LONGEST:]), parameters or {}
    offered = {**{name: {} for name in names}, **parameters}
    calls = tagged_calls(text, offered) or list(json_calls(text, offered)) or list(python_calls(text, parameters))
    return [Call(offered_name(call.name, offered), call.arguments) for call in calls]


def _plain(text: str) -> str:
    """A text without what Markdown, HTML, JSON or a word processor has put around its characters."""
    if text.strip().startswith('"'):
        with suppress(ValueError, RecursionError):
            text = json.loads(text) if isinstance(json.loads(text), str) else text
    if "&quot;" in text:
        text = html.unescape(text)
    if "“" in text and '"' not in text:
        text = text.replace("“", '"').replace("”", '"')
    return text.replace(r"\_", "_")
