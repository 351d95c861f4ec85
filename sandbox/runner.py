"""Runner: runs tests, where a program runs or apart from it."""

import sys
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sandbox.cases import TEST_FILE, failure_of, failures_of, prepare_frameworks, refuse_missing_import
from sandbox.messages import Refused

ANYTHING = "*"
"""Stands in a job's `reached` for names that the tests look up as texts, in `imports` for every name of a module."""

_MAIN = "__main__"
_STANDING = {"solution", "main", "program", "your_module", "my_module", "your_code", "submission", "answer", _MAIN}
"""What authors of tests call the module of a program."""


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
    if any(name.partition(".")[0] in ("pytest", "unittest") for name, _ in job["imports"]):
        prepare_frameworks()
    imported = _stand_for_program(job["imports"], module, own, job["entry_point"])
    names["__name__"] = _MAIN
    used = imported or job["wanted"] or any(name in own for name in job["reached"]) or ANYTHING in job["reached"]
    if job["pieces"] and not used:
        raise Refused("the tests use nothing of the program")
    try:
        _execute(job["setup"], names)
    except BaseException as error:
        refuse_missing_import(error)
        raise
    asked = failed = False
    for piece in job["pieces"]:
        failure = failure_of(lambda source=piece["source"]: _execute(source, names))
        failed |= bool(failure)
        if failure or piece["asks"]:
            asked = True
            tell(failure or "")
        if not failure and piece["defined"]:
            for name in piece["defined"]:
                for failure in failures_of(name, names.get(name)):
                    asked, failed = True, failed or bool(failure)
                    tell(failure)
    if job["pieces"] and not asked:
        raise Refused("no test asks anything of the program")
    if job["pieces"] and not failed and not job["checking"]:
        raise Refused("no test checks what the program gives")


def _execute(source: str, names: dict[str, Any]) -> None:
    exec(compile(source, TEST_FILE, "exec", dont_inherit=True), names)


def _stand_for_program(
    imports: list[Any], module: types.ModuleType, own: Collection[str], entry_point: str | None
) -> bool:
    """Let a module that does not exist stand for the program if its name says so, or the tests use names of it."""
    for name in [name for name, other in sys.modules.items() if getattr(other, "__name__", None) == module.__name__]:
        del sys.modules[name]
    sys.modules[_MAIN] = sys.modules[module.__name__] = module
    found = False
    for name, used in imports:
        parts = name.split(".")
        meant = name in _STANDING or entry_point in used or all(each == ANYTHING or each in own for each in used)
        if used and meant and not _exists(parts[0]):
            found = True
            sys.modules.update({".".join(parts[:end]): module for end in range(1, len(parts) + 1)})
    return found


def _exists(package: str) -> bool:
    import importlib.util

    return package != _MAIN and (package in sys.stdlib_module_names or importlib.util.find_spec(package) is not None)
