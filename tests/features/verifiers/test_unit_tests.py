import math
import platform
from typing import Any

import pytest

from features.texts.tasks import Task
from features.verification.verdict import Verdict, Verifier
from features.verification.workers import build_verifier
from features.verifiers.unit_tests import UnitTests
from registry import VERIFIERS, ConfigError

DOUBLE: dict[str, Any] = {
    "tests": ["assert double(2) == 4", "assert double(0) == 0", "assert double('a') == 'aa'"],
    "setup": "",
    "entry_point": "double",
    "prelude": "",
}
MARKED = "Here you are.\n```python\n#START OF CODE\ndef double(x):\n    return {}\n#END OF CODE\n```\nGood luck!"
PROMPT = '''from typing import List
import math

def half(x):
    return x / 2

def halves(numbers: List[float]) -> List[float]:
    """ Half of each.
    >>> halves([2])
    [1]
    """
'''
HALVES: dict[str, Any] = {
    "tests": ["def check(candidate):\n    assert candidate([2, 4]) == [half(2), 2]\n\ncheck(halves)"],
    "setup": "",
    "entry_point": "halves",
    "prelude": PROMPT,
}


def task(reference: Any) -> Task:
    return Task("q", "?", [{"role": "user", "content": "?"}], reference)


def verdicts(reference: Any, *responses: str, **options: Any) -> list[Verdict]:
    verifier = UnitTests(processes=2, **options)
    return list(verifier.verify((task(reference), response) for response in responses))


def test_a_response_is_right_if_all_tests_pass() -> None:
    found = verdicts(DOUBLE, *(MARKED.format(body) for body in ("x * 2", "x + 2", "x + x", "2 ** x", "1 / 0")))
    assert [verdict.label for verdict in found] == [1, 0, 1, 0, 0]
    assert [verdict.reason for verdict in found] == [
        "", "AssertionError", "", "AssertionError", "ZeroDivisionError: division by zero",
    ]  # fmt: skip


def test_the_share_of_tests_that_pass_is_given_if_asked_for() -> None:
    found = verdicts(DOUBLE, *(MARKED.format(body) for body in ("x * 2", "x + x if x else 1", "4")), partial=True)
    assert [verdict.label for verdict in found] == [1, pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert verdicts(DOUBLE, "def double(", "print(1)", partial=True) == [
        Verdict(0.0, "SyntaxError: '(' was never closed (<program>, line 1)"),
        Verdict(0.0, "NameError: name 'double' is not defined"),
    ]


@pytest.mark.parametrize(
    "reference", [None, {}, {"tests": []}, {"tests": None, "setup": ""}, "assert 1", {"setup": "x = 1"}]
)
def test_without_tests_there_is_no_label(reference: Any) -> None:
    assert verdicts(reference, "x = 1") == [Verdict(None, "no tests")]


@pytest.mark.parametrize(
    "given",
    [
        {"tests": "assert 1"},
        {"tests": 5},
        {"tests": [1]},
        {"tests": ["a"], "setup": 3},
        {"tests": ["a"], "prelude": [1]},
    ],
)
def test_tests_that_are_no_texts_give_no_label(given: dict[str, Any]) -> None:
    (found,) = verdicts(given, "x = 1")
    assert found.label is None and "no" in found.reason and "text" in found.reason


@pytest.mark.parametrize("response", ["", "  \n\t ", "```python\n```", "#START OF CODE\n#END OF CODE"])
def test_without_code_the_label_is_0_with_that_reason(response: str) -> None:
    assert verdicts(DOUBLE, response) == [Verdict(0.0, "no code")]


def test_tests_that_cannot_be_run_give_no_label() -> None:
    found = verdicts({"tests": ["assert f( == 1"]}, "def f(): return 1")
    assert found[0].label is None and found[0].reason.startswith("a test cannot be read")


def test_verdicts_keep_the_order_of_responses_of_many_problems() -> None:
    given, expected = [], []
    for number in range(120):
        kind = number % 4
        reference = {"tests": [] if kind == 3 else [f"assert f({number}) == {number + 1}"], "entry_point": "f"}
        response = {0: "def f(x): return x + 1", 1: f"def f(x): return {number}", 2: "", 3: "def f(x): return 1"}[kind]
        given.append((task(reference), response))
        expected.append({0: 1.0, 1: 0.0, 2: 0.0, 3: None}[kind])
    assert [verdict.label for verdict in UnitTests(processes=3).verify(given)] == expected
    assert list(UnitTests(processes=1).verify([])) == []


@pytest.mark.parametrize(
    ("response", "label"),
    [
        ("def halves(numbers: List[float]):\n    return [half(x) for x in numbers]", 1),
        ("```python\nimport math\n\ndef halves(numbers):\n    return [x / 2 for x in numbers]\n```", 1),
        ("    return [x / 2 for x in numbers]\n", 1),
        ("    return [math.floor(x) for x in numbers]\n", 0),
        ("def half(x):\n    return 7\n\ndef halves(numbers):\n    return [7, 2]", 0),
        ("half = lambda x: 0\nhalves = lambda numbers: [0, 2]", 0),
    ],
)
def test_a_prelude_gives_signature_imports_and_helpers(response: str, label: float) -> None:
    assert verdicts(HALVES, response)[0].label == label


def test_faked_passes_do_not_pass() -> None:
    fakes = [
        "import sys\nsys.exit(0)",
        "import os\ndef double(x): os._exit(0)",
        "class All:\n    def __eq__(self, other): return True\ndef double(x): return All()",
    ]
    assert [verdict.label for verdict in verdicts(DOUBLE, *fakes, trust="tests")] == [0, 0, None]


ODD = {
    "a coroutine": (
        "import asyncio\nassert asyncio.run(double(2)) == 4",
        "async def double(x):\n    return x * {}",
    ),
    "an enum": (
        "assert double(2) is Size.FOUR",
        "import enum\nSize = enum.Enum('Size', 'FOUR SIX')\ndef double(x):\n    return list(Size)[{} - 2]",
    ),
    "a named tuple": (
        "assert double(2).value == 4",
        "from collections import namedtuple\nOut = namedtuple('Out', 'value')\ndef double(x):\n    return Out(x * {})",
    ),
    "an own exception": (
        "try:\n    double(2)\nexcept Own as error:\n    assert error.value == 4",
        "class Own(Exception):\n    value = 2 * {}\ndef double(x):\n    raise Own",
    ),
    "with": (
        "with double(2) as four:\n    assert four == 4",
        "import contextlib\n@contextlib.contextmanager\ndef double(x):\n    yield x * {}",
    ),
    "issubclass": (
        "assert issubclass(double(2), int)",
        "def double(x):\n    return type('T', ((str, int)[{} == 2],), dict())",
    ),
    "a subclass": (
        "class Own(Base):\n    x = 2\nassert Own().double() == 4\ndouble",
        "class Base:\n    def double(self):\n        return self.x * {}\ndouble = Base",
    ),
    "an operator": (
        "assert (double(1) * 2).x == 4",
        "class V:\n    def __init__(self, x):\n        self.x = x\n    def __mul__(self, by):\n"
        "        return V(self.x * by)\ndef double(x):\n    return V(x * {})",
    ),
    "a path": (
        "from pathlib import Path\nassert double(2) == Path('4')",
        "from pathlib import Path\ndef double(x):\n    return Path(str(x * {}))",
    ),
    "output": (
        "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as out:\n    double(2)\n"
        "assert out.getvalue() == '4\\n'",
        "def double(x):\n    print(x * {})",
    ),
    "input": (
        "from unittest import mock\nwith mock.patch('builtins.input', lambda *a: '2'):\n    assert double() == 4",
        "def double():\n    return int(input()) * {}",
    ),
    "a patched module": (
        "from unittest import mock\nwith mock.patch('time.time', return_value=2):\n    assert double() == 4",
        "import time\ndef double():\n    return time.time() * {}",
    ),
    "an alias": (
        "row = [2]\ndouble([row])\nassert row == [4]",
        "def double(rows):\n    rows[0][0] *= {}",
    ),
    "a signature": (
        "import inspect\nassert list(inspect.signature(double).parameters) == ['x', 'by']\nassert double(2) == 4",
        "def double(x, by={}):\n    return x * by",
    ),
    "a source": (
        "import inspect\nassert 'x + x' in inspect.getsource(double)\nassert double(2) == 4",
        "def double(x):\n    x + x\n    return x * {}",
    ),
}
"""Tests, and a program that is right with a 2 and wrong with a 3, of what cannot pass between two processes."""


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_pass_between_processes_has_an_honest_verdict(name: str) -> None:
    tests, code = ODD[name]
    reference = {"tests": [tests], "entry_point": "double"}
    right, wrong = verdicts(reference, code.format(2), code.format(3))
    assert (right, wrong.label) == (Verdict(1.0), 0)
    right, wrong = verdicts(reference, code.format(2), code.format(3), trust="tests")
    assert right in (Verdict(1.0), Verdict(None, "passes only in one process with its tests")) and wrong.label == 0


@pytest.mark.parametrize("trust", ["program", "tests"])
@pytest.mark.parametrize(
    "tests",
    [
        "assert double(2) == 4",
        "def test_it():\n    assert double(2) == 4",
        "import unittest\nclass Test(unittest.TestCase):\n    def test_it(self):\n        assert double(2) == 4",
        "from solution import double\ndef test_it():\n    assert double(2) == 4",
    ],
)
def test_a_program_without_what_the_tests_use_is_wrong(tests: str, trust: str) -> None:
    responses = ["x = 4", "I cannot help.", "def twice(x):\n    return 2 * x", "4", "# double", '{"a": 1}']
    found = verdicts({"tests": [tests]}, *responses, trust=trust)
    assert [verdict.label for verdict in found] == [0] * len(responses), found
    assert all(verdict.reason for verdict in found), found


def test_settings_are_all_that_verdicts_depend_on() -> None:
    settings = UnitTests(partial=True, processes=7).settings()
    assert settings["partial"] is True and settings["trust"] == "program" and settings["limits"]["cpu_seconds"] == 5
    assert settings["python"] == platform.python_version() and "processes" not in settings


def test_it_is_built_by_name_with_limits_of_its_own() -> None:
    verifier = build_verifier(
        {"name": "unit_tests", "limits": {"seconds": 30, "cpu_seconds": 1}, "isolation": "required"}
    )
    assert isinstance(verifier, Verifier) and isinstance(verifier, UnitTests)
    assert verifier.limits.cpu_seconds == 1 and verifier.limits.threads == 32
    label = next(verifier.verify([(task(DOUBLE), MARKED.format("[0 for _ in iter(int, 1)]"))]))
    assert label == Verdict(0.0, "took too much CPU time") and not math.isnan(label.label or 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolation": "maybe"}, "no such choice"),
        ({"limits": {"second": 3}}, "no such option"),
        ({"limits": {"seconds": -1}}, r"limits.seconds: expected float above 0"),
        ({"processes": 0}, "processes: expected int from 1 to 1,000"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VERIFIERS.build({"name": "unit_tests", **options}, path="features.verifier")
