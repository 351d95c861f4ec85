"""Runner: runs tests as their authors mean them: statements, pytest's functions and classes, and unittest's classes."""

import asyncio
import importlib.util
import inspect
import itertools
import sys
import types
import unittest
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from sandbox.messages import message_of
from sandbox.plan import ANYTHING
from sandbox.pytest_names import Refused, build_pytest, marks_of

TEST_FILE = "<test>"
"""The name of the file of tests in tracebacks."""

_MAIN = "__main__"
_BEFORE_METHOD, _AFTER_METHOD = ("setup_class", "setup_method", "setup"), ("teardown_method", "teardown_class")


def run_tests(
    job: Mapping[str, Any],
    module: types.ModuleType,
    names: dict[str, Any],
    own: Collection[str],
    tell: Callable[[str], None],
) -> None:
    """Run the tests of a program.

    Args:
        job: The setup, and the fields of the tests' `Plan`.
        module: What tests that import the program get.
        names: The names that tests can use.
        own: The names that the program defines.
        tell: Takes why a test failed, or an empty text, after each test.

    Raises:
        Refused: If there can be no verdict, through no fault of the program.
        BaseException: What the setup raises.
    """
    sys.modules["pytest"] = build_pytest()
    unittest.main = lambda *args, **options: None  # type: ignore[assignment,misc]  # its tests run anyway
    imported = _stand_for_program(job["imports"], module, own)
    names["__name__"] = _MAIN
    if job["pieces"] and not (imported or ANYTHING in job["reached"] or any(name in own for name in job["reached"])):
        raise Refused("the tests use nothing of the program")
    try:
        _execute(job["setup"], names)
    except BaseException as error:
        _refuse_missing_import(error)
        raise
    asked = False
    for piece in job["pieces"]:
        failure = _failure_of(lambda source=piece["source"]: _execute(source, names))
        if failure or piece["asks"]:
            asked = True
            tell(failure or "")
        if not failure:
            for name in piece["defined"]:
                for failure in _failures(name, names.get(name)):
                    asked = True
                    tell(failure)
    if job["pieces"] and not asked:
        raise Refused("no test asks anything of the program")


def _execute(source: str, names: dict[str, Any]) -> None:
    exec(compile(source, TEST_FILE, "exec", dont_inherit=True), names)


def _stand_for_program(imports: list[Any], module: types.ModuleType, own: Collection[str]) -> bool:
    """Let a module that does not exist, and of which the tests use names of the program, stand for the program."""
    for name in [name for name, other in sys.modules.items() if getattr(other, "__name__", None) == module.__name__]:
        del sys.modules[name]
    sys.modules[_MAIN] = sys.modules[module.__name__] = module
    found = False
    for name, used in imports:
        parts = name.split(".")
        if used and all(each == ANYTHING or each in own for each in used) and not _exists(parts[0]):
            found = True
            sys.modules.update({".".join(parts[:end]): module for end in range(1, len(parts) + 1)})
    return found


def _exists(package: str) -> bool:
    return package != _MAIN and (package in sys.stdlib_module_names or importlib.util.find_spec(package) is not None)


def _failures(name: str, value: Any) -> Iterator[str]:
    """Run the tests that a name stands for; yield the failure of each, or an empty text."""
    if isinstance(value, type) and issubclass(value, unittest.TestCase):
        yield from _unittest_failures(value)
    elif inspect.isfunction(value) and name.startswith("test"):
        yield from _pytest_failures(value, value)
    elif isinstance(value, type) and name.startswith("Test"):
        for method, function in inspect.getmembers(value, inspect.isfunction):
            if method.startswith("test"):
                yield from _pytest_failures(function, value, method)


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
        failure = _failure_of(lambda options=options: _call(function, owner, method, options))
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
            asyncio.run(result)
    finally:
        for name in after:
            _prepare(hooks[name], test)


def _prepare(hook: Callable[..., None] | None, test: Callable[..., Any]) -> None:
    if hook is not None:
        hook(*([test] if inspect.signature(hook).parameters else []))


def _failure_of(test: Callable[[], None]) -> str | None:
    """Why a test fails; empty if it passes, None if it is skipped."""
    try:
        test()
    except Refused:
        raise
    except unittest.SkipTest:
        return None
    except BaseException as error:
        _refuse_missing_import(error)
        if isinstance(error, SystemExit) and not error.code and _is_of_test(error):
            return ""  # sys.exit(pytest.main()), where all has run
        return message_of(error) or "failed"
    return ""


def _refuse_missing_import(error: BaseException) -> None:
    """Refuse tests that themselves import what is not installed.

    Raises:
        Refused: If that is what the error says.
    """
    if isinstance(error, ModuleNotFoundError) and error.name and _is_of_test(error):
        raise Refused(f"a test imports {error.name}, which is not installed")


def _is_of_test(error: BaseException) -> bool:
    """Whether the tests themselves raised an error, not what they have called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename == TEST_FILE
