"""Cases: the tests in pytest's functions and classes, and in unittest's classes."""

import inspect
import itertools
import sys
import unittest
from collections.abc import Callable, Iterator
from typing import Any

from sandbox.messages import Refused, message_of
from sandbox.pytest_names import build_pytest, marks_of

TEST_FILE = "<test>"
"""The name of the file of tests in tracebacks."""

_BEFORE_METHOD, _AFTER_METHOD = ("setup_class", "setup_method", "setup"), ("teardown_method", "teardown_class")


def prepare_frameworks() -> None:
    """Let tests import pytest, and call the main functions of pytest and unittest, whose tests run in any case."""
    sys.modules["pytest"] = build_pytest()
    unittest.main = lambda *args, **options: None  # type: ignore[assignment,misc]


def failures_of(name: str, value: Any) -> Iterator[str]:
    """Run the tests that a name stands for; yield the failure of each, or an empty text."""
    if isinstance(value, type) and issubclass(value, unittest.TestCase):
        yield from _unittest_failures(value)
    elif inspect.isfunction(value) and name.startswith("test"):
        yield from _pytest_failures(value, value)
    elif isinstance(value, type) and name.startswith("Test"):
        for method, function in inspect.getmembers(value, inspect.isfunction):
            if method.startswith("test"):
                yield from _pytest_failures(function, value, method)
        for inner, kind in inspect.getmembers(value, inspect.isclass):
            if inner.startswith("Test"):
                yield from failures_of(inner, kind)


def _unittest_failures(kind: type[unittest.TestCase]) -> Iterator[str]:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(result)
    bad = [*result.failures, *result.errors]
    for _, trace in bad:
        yield trace.rstrip().rpartition("\n")[2] or "failed"
    bad += [(test, "") for test in result.unexpectedSuccesses]
    yield from ["unexpected success"] * len(result.unexpectedSuccesses)
    yield from [""] * max(result.testsRun - len(bad) - len(result.skipped), 0)


def _pytest_failures(function: Callable[..., Any], owner: Any, method: str = "") -> Iterator[str]:
    marks = [*marks_of(function), *(marks_of(owner) if method else [])]
    if any(mark.name in ("xfail", "skip") or (mark.name == "skipif" and any(mark.args[:1])) for mark in marks):
        return
    choices = [mark.choices() for mark in marks if mark.name == "parametrize"]
    given = {name for choice in choices for name in choice[0]}
    parameters = list(inspect.signature(function).parameters.values())[1 if method else 0 :]
    needed = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if missing := [name for name in needed if name not in given]:
        raise Refused(f"{function.__name__} needs the fixture {missing[0]}, and fixtures are not run")
    for values in itertools.product(*(rows for _, rows in choices)):
        options = {key: value for row in values for key, value in row.items()}
        failure = failure_of(lambda options=options: _call(function, owner, method, options))
        if failure is not None:
            yield failure


def _call(function: Callable[..., Any], owner: Any, method: str, options: dict[str, Any]) -> None:
    """Call a test function, or a method of a new object, between what prepares for it and what cleans up after it."""
    names = function.__globals__
    if method:
        instance = owner()
        test, before, after = getattr(instance, method), _BEFORE_METHOD, _AFTER_METHOD
        hooks = {name: getattr(instance, name, None) for name in (*before, *after)}
    else:
        test, before, after = function, ("setup_module", "setup_function"), ("teardown_function",)
        hooks = {name: names.get(name) for name in (*before, *after)}
        names.pop("setup_module", None)
    for name in before:
        _prepare(hooks[name], test)
    try:
        if inspect.iscoroutine(result := test(**options)):
            import asyncio  # too large for each process of a program to have it

            asyncio.run(result)
    finally:
        for name in after:
            _prepare(hooks[name], test)


def _prepare(hook: Callable[..., None] | None, test: Callable[..., Any]) -> None:
    if hook is not None:
        hook(*([test] if inspect.signature(hook).parameters else []))


def failure_of(test: Callable[[], None]) -> str | None:
    """Why a test fails; empty if it passes, None if it is skipped."""
    try:
        test()
    except Refused:
        raise
    except BaseException as error:
        refuse_missing_import(error)
        if type(error).__name__ == "SkipTest":
            return None
        if isinstance(error, SystemExit) and not error.code and is_of_test(error):
            return ""  # sys.exit(pytest.main()), where all has run
        return message_of(error) or "failed"
    return ""


def refuse_missing_import(error: BaseException) -> None:
    """Refuse tests that themselves import what is not installed.

    Raises:
        Refused: If that is what the error says.
    """
    if isinstance(error, ModuleNotFoundError) and error.name and is_of_test(error):
        raise Refused(f"a test imports {error.name}, which is not installed")


def is_of_test(error: BaseException) -> bool:
    """Whether the tests themselves raised an error, not what they have called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename == TEST_FILE
