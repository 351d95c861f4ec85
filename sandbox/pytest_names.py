"""Pytest names: what tests may use of pytest, which is not installed where programs run."""

import re
import types
import unittest
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from sandbox.messages import Refused


@dataclass(frozen=True)
class Mark:
    """A mark of pytest on a test."""

    name: str
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Mark a function or class, or take the arguments of the mark."""
        if len(args) == 1 and not options and callable(args[0]) and self.name != "parametrize":
            return self._put(args[0])
        return Mark(self.name, args, options)._put

    def choices(self) -> tuple[list[str], list[dict[str, Any]]]:
        """The parameters that `parametrize` gives, and their values in each case."""
        named = {**dict(zip(("argnames", "argvalues"), self.args, strict=False)), **self.options}
        names = named["argnames"]
        names = [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
        rows = []
        for each in named["argvalues"]:
            if isinstance(each, _Param):
                each = each.values if len(names) > 1 else each.values[0]
            rows.append(dict(zip(names, each if len(names) > 1 else [each], strict=True)))
        return names, rows

    def _put(self, marked: Any) -> Any:
        marked.pytestmark = [*marks_of(marked), self]
        return marked


def marks_of(marked: Any) -> list[Mark]:
    """The marks on a function or class."""
    return list(getattr(marked, "pytestmark", ()))


@dataclass(frozen=True)
class _Param:
    values: tuple[Any, ...]


class _Marks:
    def __getattr__(self, name: str) -> Mark:
        return Mark(name)


class _Raises:
    """`pytest.raises`: fails unless its block raises; it is also what the block calls the exception's information."""

    def __init__(self, expected: Any, match: str | re.Pattern[str] | None = None) -> None:
        self.expected, self.match_text = expected, match
        self.type: Any = None
        self.value: Any = None

    def __enter__(self) -> "_Raises":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if kind is None:
            raise AssertionError(f"DID NOT RAISE {self.expected}")
        if not issubclass(kind, self.expected):
            return False
        self.type, self.value = kind, error
        if self.match_text is not None:
            self.match(self.match_text)
        return True

    def match(self, pattern: str | re.Pattern[str]) -> bool:
        """Fail unless the exception's message has a match."""
        assert re.search(pattern, str(self.value)), f"{str(self.value)!r} does not match {pattern!r}"
        return True


def _raises(expected: Any, *call: Any, match: Any = None, **options: Any) -> _Raises:
    context = _Raises(expected, match)
    if call:
        with context:
            call[0](*call[1:], **options)
    return context


class _Approx:
    """`pytest.approx`: equal to numbers, and to sequences and mappings of numbers, within a tolerance."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self.expected, self.options = expected, {"rel": rel, "abs": abs, "nan_ok": nan_ok}

    def __eq__(self, actual: Any) -> bool:
        expected: Any = self.expected
        if isinstance(expected, Mapping):
            return actual.keys() == expected.keys() and all(
                _Approx(value, **self.options) == actual[key] for key, value in expected.items()
            )
        if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
            return len(actual) == len(expected) and all(
                _Approx(value, **self.options) == other for value, other in zip(expected, actual, strict=True)
            )
        rel, least, nan_ok = self.options["rel"], self.options["abs"], self.options["nan_ok"]
        number: Any = expected
        try:
            if number == actual or (nan_ok and number != number and actual != actual):
                return True
            if abs(number) == inf:
                return False
            relative = (1e-6 if least is None else 0.0) if rel is None else rel
            within = max(relative * abs(number), 1e-12 if least is None else least)
            return bool(abs(number - actual) <= within)
        except TypeError:
            return False

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"


def build_pytest() -> types.ModuleType:
    """The module that tests get when they import pytest."""
    module = types.ModuleType("pytest")

    def skip(*args: Any, **options: Any) -> Any:
        raise unittest.SkipTest(*args)

    def fail(reason: str = "", pytrace: bool = True) -> Any:
        raise AssertionError(reason)

    def refuse(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Refused(f"a test uses pytest.{name}, which is not to be had here")

    def fixture(function: Callable[..., Any] | None = None, autouse: bool = False, **options: Any) -> Any:
        if autouse:
            raise Refused("a fixture that every test uses (autouse), and fixtures are not run")
        return function if function is not None else lambda given: given

    module.__dict__.update(
        mark=_Marks(), raises=_raises, approx=_Approx, fixture=fixture, skip=skip, xfail=skip, fail=fail,
        param=lambda *values, **options: _Param(values), main=lambda *args, **options: 0, __getattr__=refuse,
    )  # fmt: skip
    return module
