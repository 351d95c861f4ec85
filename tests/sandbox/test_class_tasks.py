"""Programs with classes of their own are judged as a plain interpreter judges them."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from sandbox.sandbox import Outcome, Program, Sandbox, Trust
from tests.sandbox.class_tasks import TASKS, ClassTask

PROGRAMS = {
    f"{name}, {'right' if number == 0 else f'wrong {number}'}": (task, code)
    for name, task in TASKS.items()
    for number, code in enumerate([task.code, *task.wrong])
}


def judged(trust: Trust) -> Iterator[tuple[str, Outcome]]:
    programs = [Program(code, task.tests) for task, code in PROGRAMS.values()]
    with Sandbox(trust=trust) as sandbox:
        yield from zip(PROGRAMS, sandbox.run(programs), strict=True)


def passes_plainly(task: ClassTask, code: str) -> bool:
    """Whether a new interpreter runs code and tests without an error, with pytest and unittest to run theirs."""
    run = "import unittest\nfor value in [*globals().values()]:\n"
    run += (
        "    if isinstance(value, type) and issubclass(value, unittest.TestCase) and value is not unittest.TestCase:\n"
    )
    run += "        assert unittest.defaultTestLoader.loadTestsFromTestCase(value).run(unittest.TestResult())"
    run += ".wasSuccessful()\nif 'test_it' in globals():\n    test_it()\n"
    source = "\n".join((code, *task.tests, run))
    return subprocess.run([sys.executable, "-c", source], capture_output=True, timeout=60).returncode == 0


@pytest.mark.slow
def test_verdicts_are_those_of_a_plain_interpreter(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("plain"))
        plain = {name: passes_plainly(task, code) for name, (task, code) in PROGRAMS.items()}
    assert {name for name, passes in plain.items() if passes} == {name for name in PROGRAMS if name.endswith("right")}
    found = dict(judged("program"))
    assert {name: (outcome.passed, outcome.undecided) for name, outcome in found.items()} == {
        name: (passes, "") for name, passes in plain.items()
    }


def test_with_tests_apart_no_right_program_fails_and_no_wrong_one_passes() -> None:
    for name, outcome in judged("tests"):
        right = name.endswith("right")
        assert outcome.passed or outcome.undecided if right else not outcome.passed, (name, outcome)
