"""Python values: Python expressions as JSON values, without running them."""

import ast
import operator
import re
from typing import Any

NO_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What `ast.parse` raises for texts that are not Python."""

_QUOTED = re.compile(r"""(["'])(?:(?!\1)[^\\]|\\.)*\1""", re.DOTALL)
_LITERALS = {"true": True, "false": False, "null": None, "none": None}
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_LARGEST = 1e300


def expression_of(text: str) -> ast.expr:
    """A text as a Python expression; texts in it may have line ends.

    Raises:
        Exception: Of the kinds in `NO_PYTHON`, if it is none.
    """
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        escaped = _QUOTED.sub(lambda found: found[0].replace("\n", "\\n"), text)
        if escaped == text:
            raise
        return ast.parse(escaped, mode="eval").body


def value_of(node: ast.expr) -> Any:
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
            return [value_of(each) for each in node.elts]
        case ast.Dict():
            return {str(value_of(key)): value_of(each) for key, each in zip(node.keys, node.values, strict=True) if key}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(each.arg for each in keywords):
            return {str(each.arg): value_of(each.value) for each in keywords}
        case ast.Call(func=ast.Name(id="list" | "tuple" | "set"), args=[ast.List() | ast.Tuple() | ast.Set() as items]):
            return value_of(items)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
            return _computed(node)
        case _:
            return ast.unparse(node)


def _computed(node: ast.BinOp) -> Any:
    """The value of plain arithmetic such as 1/3, which models write instead of a number."""
    left, right = value_of(node.left), value_of(node.right)
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in (left, right)):
        return ast.unparse(node)
    try:
        found = _OPERATIONS[type(node.op)](left, right)
    except (ZeroDivisionError, OverflowError):
        return ast.unparse(node)
    return found if abs(found) < _LARGEST else ast.unparse(node)
