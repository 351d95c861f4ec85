"""JSON calls: calls written as JSON objects or as Python's literals of these, in any text."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from features.verification.call_forms.brackets import object_at
from features.verification.call_forms.call import Call, arguments_of, offered_name

_OPENING = re.compile(r"[\[{]")
# The words of OpenAI, Anthropic, LangChain and Cohere.
_NAMES = (
    "name",
    "function",
    "tool_name",
    "tool",
    "action",
    "function_name",
    "recipient_name",
    "api_name",
    "api",
    "method",
    "call",
)
_ARGUMENTS = (
    *("arguments", "parameters", "args", "input", "action_input", "tool_input", "inputs", "params", "kwargs"),
    *("tool_args", "tool_arguments", "tool_parameters", "function_args", "function_arguments", "function_parameters"),
)
_BESIDE = {"id", "type", "index", "call_id", "tool_call_id"}


def json_calls(text: str, names: Mapping[str, Collection[str]]) -> Iterator[Call]:
    """Yield the calls in all objects and lists of a text.

    Args:
        text: A response.
        names: The functions that an object may call without the words `name` and `arguments`, with their parameters.
    """
    place = 0
    while (found := _OPENING.search(text, place)) is not None:
        value, place = object_at(text, found.start())
        yield from _calls_of(value, names)


def _calls_of(value: Any, names: Mapping[str, Collection[str]]) -> Iterator[Call]:
    """Yield the calls in a JSON value."""
    if isinstance(value, list):
        if (calls := _named(value, names)) is not None:
            yield from calls
            return
        for each in value:
            yield from _calls_of(each, names)
        return
    if not isinstance(value, dict):
        return
    value = next((value[key] for key in ("function", "tool") if isinstance(value.get(key), dict)), value)
    call = _call(value, names)
    if call is None and (calls := _named([value], names)) is not None:
        yield from calls
    elif call is None:
        for each in value.values():
            yield from _calls_of(each, names)
    elif not _is_schema(call.arguments):
        yield call


def _call(value: Mapping[str, Any], names: Mapping[str, Collection[str]]) -> Call | None:
    """The call `{"name": ..., "arguments": ...}`; for a known function arguments may be missing, or beside the name."""
    key = next((key for key in _NAMES if isinstance(value.get(key), str)), None)
    if key is None:
        return None
    name = offered_name(value[key], names)
    given = [key for key in _ARGUMENTS if key in value]
    if not given:
        rest = {each: value[each] for each in value.keys() - {key}}
        if name in names and rest and rest.keys() <= set(names[name]):
            return Call(name, rest)
        return Call(name, {}) if name in names and not rest.keys() - {*_NAMES, *_BESIDE} else None
    arguments = arguments_of(value[given[0]])
    return None if arguments is None else Call(name, arguments)


def _named(values: list[Any], names: Collection[str]) -> list[Call] | None:
    """The calls of objects `{name: arguments}`, as in BFCL's result files; None if they are none."""
    calls = []
    for value in values:
        if not isinstance(value, dict):
            return None
        for name, given in value.items():
            arguments = arguments_of(given)
            if arguments is None:
                return None
            calls.append(Call(offered_name(name, names), arguments))
    return calls if any(call.name in names for call in calls) else None


def _is_schema(arguments: Mapping[str, Any]) -> bool:
    """Whether this is the description of an offered function rather than a call."""
    return arguments.get("type") in ("object", "dict") and isinstance(arguments.get("properties"), dict)
