"""Python calls: calls written as `name(parameter=value)`, or with a colon, alone or in lists, in any text."""

import ast
import re
from collections.abc import Iterator

from features.verification.call_forms.brackets import end_of
from features.verification.call_forms.call import Call, Parameters, arguments_of, offered_name
from features.verification.call_forms.python_values import NO_PYTHON, expression_of, value_of

_WORDS = ("arguments", "args", "input")
_PART = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<bracket>[\[\](){}])|(?<=[(,\s])(?P<key>[A-Za-z_]\w*)\s*:(?!:)""",
    re.DOTALL,
)
_CALL = re.compile(r"(?:\[\s*)?\b[A-Za-z_][\w.]*\s*\(")


def python_calls(text: str, parameters: Parameters) -> Iterator[Call]:
    """Yield calls of known functions, in lists or single as `name(a=1)`; unknown ones may be parentheses in prose.

    Args:
        text: A response.
        parameters: The parameters of the offered functions; where it is empty, every single call counts.
    """
    place = 0
    while (found := _CALL.search(text, place)) is not None:
        listed = found[0].startswith("[")
        start = found.start() if listed else found.end() - 1
        end = end_of(text, start)
        calls = _calls_of_code(text[found.start() : end], parameters) if end else []
        if not listed and parameters:
            calls = [call for call in calls if call.name in parameters]
        yield from calls
        place = end if end and calls else found.start() + 1 if listed else found.end()


def _calls_of_code(code: str, parameters: Parameters) -> list[Call]:
    """The calls of an expression that is a call or a list of calls; empty for any other expression."""
    try:
        node = _expression(code.strip())
        nodes = node.elts if isinstance(node, ast.List) else [node]
        calls = _described(node, parameters) or [_call_of(each, parameters) for each in nodes]
    except NO_PYTHON:
        return []
    return [] if None in calls else [call for call in calls if call]


def _expression(code: str) -> ast.expr:
    """Code as an expression; a colon may stand between parameters and values, as in `name(parameter: value)`."""
    try:
        return expression_of(code)
    except SyntaxError:
        opened: list[str] = []
        return expression_of(_PART.sub(lambda found: _with_equals(found, opened), code))


def _with_equals(found: re.Match[str], opened: list[str]) -> str:
    """A part of code, with `=` after a parameter; `opened` has the brackets that are open."""
    if bracket := found["bracket"]:
        if bracket in "([{":
            opened.append(bracket)
        elif opened:
            opened.pop()
    return f"{found['key']}=" if found["key"] and opened[-1:] == ["("] else found[0]


def _call_of(node: ast.expr, parameters: Parameters) -> Call | None:
    if not isinstance(node, ast.Call):
        return None
    name = offered_name(ast.unparse(node.func), parameters)
    names = list(parameters.get(name, ()))
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None and not isinstance(keyword.value, ast.Dict):
            return None
        value = value_of(keyword.value)
        arguments |= value if keyword.arg is None else {keyword.arg: value}
    match node.args:
        case [ast.Dict() as given] if not arguments and _names_parameters(given, names):
            return Call(name, value_of(given))
        case _ if len(node.args) > len(names):
            return None
    return Call(name, dict(zip(names, map(value_of, node.args), strict=False)) | arguments)


def _described(node: ast.expr, parameters: Parameters) -> list[Call]:
    """The calls in objects of the clients of servers, as printed: Function(name="f", arguments="{}")."""
    calls = []
    for each in ast.walk(node):
        given = (
            {keyword.arg: value_of(keyword.value) for keyword in each.keywords} if isinstance(each, ast.Call) else {}
        )
        name = offered_name(str(given.get("name")), parameters)
        arguments = next((given[word] for word in _WORDS if word in given), None)
        if name in parameters and (found := arguments_of(arguments)) is not None:
            calls.append(Call(name, found))
    return calls


def _names_parameters(given: ast.Dict, names: list[str]) -> bool:
    """Whether an object as the only argument has all arguments by name: f({"a": 1}) for f(a=1)."""
    keys = [str(value_of(key)) for key in given.keys if isinstance(key, ast.Constant | ast.Name)]
    return len(keys) == len(given.keys) and (not names or set(keys) <= set(names))
