"""Call syntax: finds the function calls in a text, written as JSON or Python."""

import ast
import json
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.verification.answers import without_thoughts

Parameters = Mapping[str, Sequence[str]]
"""The names of each function's parameters, in order."""

_NO_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)
_OPENING = re.compile(r"[\[{]")
_CALL = re.compile(r"(?:\[\s*)?\b[A-Za-z_][\w.]*\s*\(")
_LITERALS = {"true": True, "false": False, "null": None, "none": None}
_MARKS = re.compile(r"""["'\\()\[\]{}]""")
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_LARGEST = 1e300
_LONGEST = 100_000
_DEEPEST = 50


@dataclass(frozen=True)
class Call:
    """A function's name and its arguments, as plain JSON values."""

    name: str
    arguments: Mapping[str, Any]


def calls_in(text: str, parameters: Parameters | None = None) -> list[Call]:
    """All calls in a text, in order, with any text around them; a model's thoughts before its answer are ignored.

    JSON has priority over Python: `{"name": ..., "arguments": {...}}`, alone, in lists, line by line, between tags or
    fences, in other objects, with `parameters` instead of `arguments`, as the `function` of a tool call, whose
    arguments may be a text with JSON, or as a Python literal. Python's `name(parameter=value)`, alone or in lists, may
    have positional arguments if the names of the parameters are known.

    Args:
        text: A response.
        parameters: The parameters of the offered functions.
    """
    text = without_thoughts(text)[-_LONGEST:]
    return list(_json_calls(text)) or list(_python_calls(text, parameters or {}))


def parameter_names(functions: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The names of each function's parameters, in order.

    Args:
        functions: Descriptions with a JSON schema, as in BFCL and OpenAI's API, or with the parameters directly in
            `parameters`, as in xLAM.
    """
    found = {}
    for function in functions:
        described = function.get("function", function)
        schema = described.get("parameters") or {}
        properties = schema.get("properties") if isinstance(schema.get("type"), str) else schema
        found[described.get("name", "")] = list(properties or {})
    return found


def _json_calls(text: str) -> Iterator[Call]:
    place = 0
    while (found := _OPENING.search(text, place)) is not None:
        value, place = _object_at(text, found.start())
        yield from _calls_of(value)


def _object_at(text: str, start: int) -> tuple[Any, int]:
    """The object or list that begins at a position, and the position of its end; None if there is none."""
    end = _end_of(text, start)
    if end is None:
        return None, start + 1
    try:
        return json.loads(text[start:end]), end
    except (ValueError, RecursionError):
        pass  # perhaps a Python literal with single quotes, True and None, which models often write
    try:
        return _value(ast.parse(text[start:end], mode="eval").body), end
    except _NO_PYTHON:
        return None, start + 1


def _calls_of(value: Any) -> Iterator[Call]:
    """Yield the calls in a JSON value."""
    if isinstance(value, list):
        for each in value:
            yield from _calls_of(each)
        return
    if not isinstance(value, dict):
        return
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name", value.get("function"))
    arguments = next((value[key] for key in ("arguments", "parameters", "args") if key in value), None)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return
    if not isinstance(name, str) or not isinstance(arguments, dict):
        for each in value.values():
            yield from _calls_of(each)
    elif not _is_schema(arguments):
        yield Call(name, arguments)


def _is_schema(arguments: Mapping[str, Any]) -> bool:
    """Whether this is the description of an offered function rather than a call."""
    return arguments.get("type") in ("object", "dict") and isinstance(arguments.get("properties"), dict)


def _python_calls(text: str, parameters: Parameters) -> Iterator[Call]:
    """Yield calls of known functions, in lists or single as `name(a=1)`; unknown ones may be parentheses in prose."""
    place = 0
    while (found := _CALL.search(text, place)) is not None:
        listed = found[0].startswith("[")
        start = found.start() if listed else found.end() - 1
        end = _end_of(text, start)
        calls = _calls_of_code(text[found.start() : end], parameters) if end else []
        if not listed and parameters:
            calls = [call for call in calls if call.name in parameters]
        yield from calls
        place = end if end and calls else found.start() + 1 if listed else found.end()


def _end_of(text: str, start: int) -> int | None:
    """The position where a bracket is closed, ignoring brackets in strings; None if it is not."""
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


def _calls_of_code(code: str, parameters: Parameters) -> list[Call]:
    """The calls of an expression that is a call or a list of calls; empty for any other expression."""
    try:
        node = ast.parse(code.strip(), mode="eval").body
        nodes = node.elts if isinstance(node, ast.List) else [node]
        calls = [_call_of(each, parameters) for each in nodes]
    except _NO_PYTHON:
        return []
    return [] if None in calls else [call for call in calls if call]


def _call_of(node: ast.expr, parameters: Parameters) -> Call | None:
    if not isinstance(node, ast.Call):
        return None
    name = ast.unparse(node.func)
    names = parameters.get(name, ())
    if len(node.args) > len(names) or any(keyword.arg is None for keyword in node.keywords):
        return None
    arguments = dict(zip(names, map(_value, node.args), strict=False))
    return Call(name, arguments | {str(keyword.arg): _value(keyword.value) for keyword in node.keywords})


def _value(node: ast.expr) -> Any:
    """A Python expression as a JSON value; an expression that is not a literal becomes its source text."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.Name(id=name) if name in _LITERALS:
            return _LITERALS[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.UnaryOp(op=ast.UAdd(), operand=ast.Constant(value=int() | float() as number)):
            return number
        case ast.List() | ast.Tuple() | ast.Set():
            return [_value(each) for each in node.elts]
        case ast.Dict():
            return {str(_value(key)): _value(each) for key, each in zip(node.keys, node.values, strict=True) if key}
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
            return _computed(node)
        case _:
            return ast.unparse(node)


def _computed(node: ast.BinOp) -> Any:
    """The value of plain arithmetic such as 1/3, which models write instead of a number."""
    left, right = _value(node.left), _value(node.right)
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in (left, right)):
        return ast.unparse(node)
    try:
        found = _OPERATIONS[type(node.op)](left, right)
    except (ZeroDivisionError, OverflowError):
        return ast.unparse(node)
    return found if abs(found) < _LARGEST else ast.unparse(node)
