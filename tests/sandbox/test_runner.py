"""Tests that only a runner calls: pytest's functions and classes, unittest's classes, and functions that take one."""

from collections.abc import Iterator

import pytest

from sandbox.sandbox import Limits, Outcome, Program, Sandbox, Trust

LIMITS = Limits(seconds=60.0, cpu_seconds=2, memory_mb=500, threads=8, file_mb=1, folder_mb=2, output_kb=100)
RIGHT, WRONG = "def sq(n):\n    return n * n", "def sq(n):\n    return n + n + (n == 2) * 0 + (n > 2)"


@pytest.fixture(scope="module", params=["program", "tests"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    trust: Trust = request.param
    with Sandbox(LIMITS, workers=2, trust=trust) as made:
        yield made


def run(sandbox: Sandbox, code: str, *tests: str, entry_point: str | None = "sq", setup: str = "") -> Outcome:
    return next(sandbox.run([Program(code, tests, setup, entry_point=entry_point)]))


ASKED = {
    "functions": ("def test_two():\n    assert sq(2) == 4\n\ndef test_three():\n    assert sq(3) == 9\n", 2),
    "a function and a statement": ("assert sq(2) == 4\ndef test_three():\n    assert sq(3) == 9\n", 2),
    "one list of parameters": (
        "import pytest\n@pytest.mark.parametrize('given, wanted', [(2, 4), (3, 9), pytest.param(0, 0, id='none')])\n"
        "def test_it(given, wanted):\n    assert sq(given) == wanted\n",
        3,
    ),
    "parameters of parameters": (
        "from pytest import mark\n@mark.parametrize('sign', [1, -1])\n@mark.parametrize('n', [2, 3])\n"
        "def test_it(sign, n):\n    assert sq(sign * n) == n * n\n",
        4,
    ),
    "a class": (
        "class TestSq:\n    def setup_method(self):\n        self.n = 3\n"
        "    def test_it(self):\n        assert sq(self.n) == 9\n",
        1,
    ),
    "a class with parameters": (
        "import pytest\n@pytest.mark.parametrize('n', [2, 3])\nclass TestSq:\n"
        "    def test_it(self, n):\n        assert sq(n) == n ** 2\n",
        2,
    ),
    "pytest's helpers": (
        "import pytest\n@pytest.mark.slow\ndef test_it():\n    assert sq(0.1) == pytest.approx(0.01)\n"
        "    assert [sq(3), sq(0.1)] == pytest.approx([9, 0.01])\n"
        "    with pytest.raises(TypeError, match='unsupported|multiply') as info:\n        sq({})\n"
        "    assert info.type is TypeError\n",
        1,
    ),
    "an asynchronous function": ("async def test_it():\n    assert sq(3) == 9\n", 1),
    "functions called at the end": ("def test_it():\n    assert sq(3) == 9\n\ntest_it()\n", 1),
    "functions called by the main program": (
        "def test_it():\n    assert sq(3) == 9\n\nif __name__ == '__main__':\n    test_it()\n",
        1,
    ),
    "pytest's main": (
        "import pytest, sys\ndef test_it():\n    assert sq(3) == 9\n\n"
        "if __name__ == '__main__':\n    sys.exit(pytest.main([__name__]))\n",
        2,
    ),
    "a module's preparation": (
        "def setup_module(module):\n    global n\n    n = 3\ndef test_it():\n    assert sq(n) == 9\n",
        1,
    ),
    "unittest": (
        "import unittest\nclass Squares(unittest.TestCase):\n    def setUp(self):\n        self.n = 3\n"
        "    def test_two(self):\n        self.assertEqual(sq(2), 4)\n"
        "    def test_three(self):\n        self.assertEqual(sq(self.n), 9)\n",
        2,
    ),
    "unittest's main": (
        "from unittest import TestCase\nimport unittest\nclass Squares(TestCase):\n"
        "    def test_it(self):\n        for n in (2, 3):\n            with self.subTest(n=n):\n"
        "                self.assertEqual(sq(n), n ** 2)\nif __name__ == '__main__':\n    unittest.main()\n",
        1,
    ),
    "unittest's main without a condition": (
        "import unittest\nclass Squares(unittest.TestCase):\n    def test_it(self):\n        assert sq(3) == 9\n"
        "unittest.main(argv=['first'], exit=False)\n",
        1,
    ),
    "unittest's preparation of a class": (
        "import unittest\nclass Base(unittest.TestCase):\n    @classmethod\n    def setUpClass(cls):\n"
        "        cls.wanted = 9\nclass Squares(Base):\n    def test_it(self):\n"
        "        self.assertEqual(sq(3), self.wanted)\n",
        1,
    ),
    "unittest, asynchronous": (
        "import unittest\nclass Squares(unittest.IsolatedAsyncioTestCase):\n    async def test_it(self):\n"
        "        self.assertEqual(sq(3), 9)\n",
        1,
    ),
    "a function that takes the candidate": (
        "METADATA = {'author': 'x'}\ndef check(candidate):\n    assert candidate(3) == 9",
        1,
    ),
    "a test that takes the candidate": ("def test_it(candidate):\n    assert candidate(3) == 9", 1),
    "an import of the program": (
        "from solution import sq\nimport unittest\n\ndef test_it():\n    assert sq(3) == 9",
        1,
    ),
    "a class in a class": (
        "class TestIt:\n    class TestInner:\n        def test_it(self):\n            assert sq(3) == 9",
        1,
    ),
    "an import of the program's module": ("import my_module\nassert my_module.sq(3) == 9", 1),
}


@pytest.mark.parametrize("name", ASKED)
def test_tests_run_as_their_authors_mean(sandbox: Sandbox, name: str) -> None:
    tests, number = ASKED[name]
    right, wrong = run(sandbox, RIGHT, tests), run(sandbox, WRONG, tests)
    assert right.passed and list(right.failures) == [""] * number, right
    assert not wrong.passed and not wrong.undecided and any(wrong.failures), wrong


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("def check():\n    assert sq(3) == 9", "the tests use nothing of the program"),
        ("METADATA = dict(author='x')\ndef run():\n    assert sq(3) == 9", "the tests use nothing of the program"),
        ("candidate = sq", "the tests use nothing of the program"),
        ("# assert sq(3) == 9", "the tests use nothing of the program"),
        ("import math\nfrom typing import List", "the tests use nothing of the program"),
        ("'''assert sq(3) == 9'''", "the tests use nothing of the program"),
        ("assert True", "the tests use nothing of the program"),
        ("class Squares:\n    def test_it(self):\n        assert sq(3) == 9", "the tests use nothing of the program"),
        (
            "import pytest\n@pytest.mark.skip(reason='later')\ndef test_it():\n    assert sq(3) == 9",
            "no test asks anything of the program",
        ),
        (
            "import unittest\nclass Test(unittest.TestCase):\n    @unittest.skip('later')\n"
            "    def test_it(self):\n        self.assertEqual(sq(3), 9)",
            "no test asks anything of the program",
        ),
        ("def test_it(capsys):\n    assert sq(3) == 9", "test_it needs the fixture capsys, and fixtures are not run"),
        (
            "import pytest\n@pytest.fixture\ndef n():\n    return 3\ndef test_it(n):\n    assert sq(n) == 9",
            "test_it needs the fixture n, and fixtures are not run",
        ),
        (
            "import pytest\n@pytest.fixture(autouse=True)\ndef n():\n    pass\ndef test_it():\n    assert sq(3) == 9",
            "a fixture that every test uses (autouse), and fixtures are not run",
        ),
        (
            "import pytest\ndef test_it():\n    with pytest.warns(UserWarning):\n        sq(3)",
            "a test uses pytest.warns, which is not to be had here",
        ),
        ("import numpy as np\nassert np.all(sq(3) == 9)", "a test imports numpy, which is not installed"),
        (">>> sq(3)\n9", "a test cannot be read: SyntaxError"),
        ("print(sq(3))", "no test checks what the program gives"),
        ("sq(3) == 9", "no test checks what the program gives"),
        ("import math\nprint(math.isclose(sq(3), 9))", "no test checks what the program gives"),
        ("def test_it():\n    print(sq(3) == 9)", "no test checks what the program gives"),
    ],
)
def test_a_program_that_was_asked_nothing_has_no_verdict(sandbox: Sandbox, tests: str, reason: str) -> None:
    for code in (RIGHT, WRONG):
        outcome = run(sandbox, code, tests)
        assert outcome.undecided.startswith(reason) and not outcome.failures and not outcome.passed


def test_a_program_that_raises_in_tests_that_check_nothing_has_failed(sandbox: Sandbox) -> None:
    outcome = run(sandbox, "def sq(n): raise ValueError", "print(sq(3))")
    assert not outcome.passed and not outcome.undecided


def test_a_setup_that_imports_what_is_not_installed_leaves_no_verdict(sandbox: Sandbox) -> None:
    assert run(sandbox, RIGHT, "assert sq(3) == 9", setup="import numpy").undecided.startswith("a test imports numpy")


def test_a_program_named_like_a_test_is_no_test(sandbox: Sandbox) -> None:
    code = "def test_square(n):\n    return n in (1, 4, 9)"
    assert run(sandbox, code, "assert test_square(4)", entry_point="test_square").passed
    assert not run(sandbox, code, "assert test_square(5)", entry_point="test_square").passed


def test_a_program_that_ends_itself_in_a_test_has_not_passed(sandbox: Sandbox) -> None:
    for end in ("sys.exit(0)", "os._exit(0)", "raise SystemExit"):
        outcome = run(sandbox, f"import os, sys\ndef sq(n):\n    {end}", "def test_it():\n    assert sq(3) == 9")
        assert not outcome.passed and not outcome.undecided
