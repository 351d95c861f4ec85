import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry import ConfigError
from sandbox import sandbox as sandbox_module
from sandbox import worker_process
from sandbox.sandbox import Limits, Outcome, Program, Sandbox

SMALL = Limits(seconds=60.0, cpu_seconds=2, memory_mb=500, threads=8, file_mb=1, folder_mb=2, output_kb=100)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SMALL, workers=2) as made:
        yield made


@pytest.fixture(scope="module")
def apart() -> Iterator[Sandbox]:
    with Sandbox(SMALL, workers=2, trust="tests") as made:
        yield made


def run(sandbox: Sandbox, code: str, *tests: str, **more: Any) -> Outcome:
    return next(sandbox.run([Program(code, tests, **more)]))


def test_each_test_passes_or_fails_by_itself(sandbox: Sandbox) -> None:
    outcome = run(
        sandbox,
        "def double(x):\n    return 2 * x\n",
        "assert double(3) == 6",
        "assert double(3) == 7",
        "assert double('a') == 'aa'",
        "assert double(None) == 0",
        "assert double(1) == 3, 'three'",
    )
    assert [bool(failure) for failure in outcome.failures] == [False, True, False, True, True]
    assert outcome.failures[3].startswith("TypeError: unsupported operand")
    assert outcome.failures[4] == "AssertionError: three"
    assert not outcome.passed and not outcome.error and not outcome.undecided


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("def f(:", "SyntaxError: invalid syntax (<program>, line 1)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("class Own(Exception): pass\nraise Own('mine')", "Own: mine"),
        ("class Own(ValueError): pass\nraise Own('mine')", "Own: mine"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def g(x): return x", "NameError: name 'f' is not defined"),
        ("\0", "source code string cannot contain null bytes"),
        ("x = '\\ud800'\nraise ValueError(x)", "ValueError: \\ud800"),
    ],
)
def test_a_program_that_cannot_be_run_fails_all_tests_and_says_why(sandbox: Sandbox, code: str, error: str) -> None:
    outcome = run(sandbox, code, "assert f(1) == 1", "assert True", entry_point="f")
    assert error in outcome.error
    assert list(outcome.failures) == [outcome.error] * 2


def test_a_program_without_tests_passes_if_it_runs(sandbox: Sandbox) -> None:
    assert run(sandbox, "print('hello')").output == "hello\n"
    assert run(sandbox, "print('hello')").passed
    assert not run(sandbox, "raise ValueError").passed


def test_plain_values_come_back_as_they_are(apart: Sandbox) -> None:
    values = [
        "None", "True", "-7", "10**5000", "0.1", "-0.0", "float('inf')", "1j", "'a\\ud800\\n'", "b'\\xff'",
        "bytearray(b'x')", "[1, (2, {3}), {}]", "{'a': [1], (1, 2): frozenset({3})}", "range(1, 9, 2)",
        "Counter('aab')", "OrderedDict([(2, 1), (1, 2)])", "defaultdict(list, {1: [2]})", "deque([1, 2], 5)",
        "Decimal('1.10')", "Fraction(1, 3)", "datetime(2020, 1, 2, 3, 4, 5, 6)", "date(2020, 1, 2)", "time(1, 2)",
        "timedelta(1, 2, 3)", "array('i', [1, 2])", "{1: 2}.keys()", "{1: 2}.items()", "int", "ValueError",
    ]  # fmt: skip
    imports = (
        "from array import array\nfrom collections import *\nfrom datetime import *\nfrom decimal import Decimal\n"
        "from fractions import Fraction\n"
    )
    tests = [f"assert same({value}) == {value} and type(same({value})) is type({value})" for value in values]
    outcome = run(apart, "def same(x): return x", *tests, "assert repr(same(-0.0)) == '-0.0'", setup=imports)
    assert [test for test, failure in zip(tests, outcome.failures, strict=False) if failure] == []
    assert outcome.passed


def test_objects_of_the_program_can_be_built_changed_and_compared(apart: Sandbox) -> None:
    code = """
class Node:
    count = 0
    def __init__(self, value): self.value, self.left = value, None
    def __eq__(self, other): return self.value == other.value
    def __hash__(self): return hash(self.value)
    def __add__(self, other): return Node(self.value + other.value)
    def __neg__(self): return Node(-self.value)
    def __len__(self): return 3
    def __getitem__(self, key): return key * 2
    def __iter__(self): return iter([self.value, 7])
    def __repr__(self): return f"Node({self.value})"
class Child(Node): pass
def depth(node): return 0 if node is None else 1 + depth(node.left)
def evens():
    n = 0
    while True:
        yield n
        n += 2
def power(n): return lambda x: x ** n
"""
    outcome = run(
        apart,
        code,
        "assert depth(root) == 2 and root.left.value == 2",
        "assert depth([root][0]) == 2",
        "root.left.left = Node(9)\nassert depth(root) == 3",
        "assert Node(1) == Node(1) and Node(1) != Node(2) and Node(1) != 1",
        "assert (Node(1) + Node(2)).value == 3 and len(root) == 3 and root[4] == 8 and list(Node(5)) == [5, 7]",
        "assert (-Node(1)).value == -1",
        "assert repr(root) == 'Node(1)' and f'{root}' == 'Node(1)' and len({Node(1), Node(1)}) == 1",
        "assert isinstance(Child(1), Node) and not isinstance(Node(1), Child) and not isinstance(1, Node)",
        "from itertools import islice\nassert list(islice(evens(), 3)) == [0, 2, 4]",
        "assert power(3)(2) == 8 and bool(root) is True and Node.count == 0",
        "try:\n    root.missing\nexcept AttributeError as error:\n    assert 'missing' in str(error)\n"
        "else:\n    assert False",
        "del root.left\ntry:\n    root.left\n    assert False\nexcept AttributeError:\n    pass",
        setup="root = Node(1)\nroot.left = Node(2)",
    )
    assert list(outcome.failures) == [""] * 12


def test_programs_may_change_and_call_what_they_are_given(apart: Sandbox) -> None:
    code = """
def grow(numbers, seen, names, raw):
    numbers.append(numbers[0]); seen.add(1); names['a'] = [1]; raw[0] = 7
def apply(function, values): return [function(value) for value in values]
def total(values): return sum(values)
def sort(*, numbers): numbers.sort()
def add(numbers, number): numbers.append(number)
def put(mapping, key, value): mapping[key] = value
def kinds(*types, **named): return [kind.__name__ for kind in types], named
"""
    outcome = run(
        apart,
        code,
        "a, b, c, d = [5], {0}, {}, bytearray(b'x')\ngrow(a, b, c, d)\n"
        "assert (a, b, c, d) == ([5, 5], {0, 1}, {'a': [1]}, bytearray(b'\\x07'))",
        "assert apply(lambda x: x + 1, [1, 2]) == [2, 3] and apply(abs, [-1]) == [1]",
        "def half(x):\n    return x / 2\nassert apply(half, [3]) == [1.5]",
        "def bad(x):\n    raise ValueError('no')\ntry:\n    apply(bad, [1])\nexcept ValueError as error:\n"
        "    assert 'no' in str(error)\nelse:\n    assert False",
        "assert total(n for n in range(4)) == 6 and total(iter([1, 2])) == 3 and total({1: 2}.keys()) == 1",
        "assert kinds(int, str, key=(1,)) == (['int', 'str'], {'key': (1,)})",
        "numbers = [2, 1]\nsort(numbers=numbers)\nassert numbers == [1, 2]",
        "from collections import *\nfrom array import array\n"
        "for some in (deque([1]), array('i', [1])):\n    add(some, 2)\n    assert list(some) == [1, 2]\n"
        "for some in (Counter('a'), OrderedDict(a=1), defaultdict(int, a=1)):\n    put(some, 'b', 7)\n"
        "    assert some == {'a': 1, 'b': 7}, some",
    )
    assert list(outcome.failures) == [""] * 8


def test_exceptions_of_the_program_can_be_caught_by_the_tests(apart: Sandbox) -> None:
    code = "class Own(KeyError): pass\ndef f(x):\n    raise {1: ValueError('one'), 2: Own('two'), 3: SystemExit(0)}[x]"
    caught = "try:\n    f({})\nexcept {} as error:\n    assert '{}' in str(error)\nelse:\n    assert False"
    tests = [caught.format(1, "ValueError", "one"), caught.format(2, "KeyError", "two"), "try: f(3)\nexcept OSError: 0"]
    tests += ["try:\n    f(4)\nexcept KeyError as error:\n    assert error.args == (4,)\nelse:\n    assert False"]
    outcome = run(apart, code, *tests)
    assert [bool(failure) for failure in outcome.failures] == [False, False, True, False]
    assert outcome.failures[2] == "SystemExit: 0"


def test_names_stand_for_the_function_under_test_then_for_the_checkers_own(apart: Sandbox) -> None:
    code = "import math as m, math\nmath.fabs = lambda x: 0.0\ncmath = 5\n"
    code += "def sum(a, b): return a * b\ndef helper(x): return 0"
    outcome = run(
        apart,
        code,
        "assert sum(2, 5) == 10",
        "assert math.fabs(-2) == 2",
        "assert m.fabs(-2) == 2",
        "assert cmath.sqrt(4) == 2",
        "assert helper(1) == 1",
        "assert abs(-1) == 1",
        "assert undefined",
        prelude="def helper(x):\n    return x\ndef sum(a, b):\n    '''The product.'''\n",
        entry_point="sum",
    )
    assert list(outcome.failures) == [""] * 6 + ["NameError: name 'undefined' is not defined"]


def test_names_that_the_program_gives_other_values_have_them(apart: Sandbox) -> None:
    code = "count, seen = 0, []\ndef f(x):\n    global count\n    count += 1\n    seen.append(x)"
    outcome = run(
        apart,
        code,
        "assert count == 0 and seen == []\nf(5)\nassert count == 1 and seen == [5]",
        "assert [count for _ in range(2)] == [1, 1]\ndef later():\n    return count\nf(6)\nassert later() == 2",
        "count = 7\nf(8)\nassert count == 7",
        entry_point="f",
    )
    assert list(outcome.failures) == [""] * 3


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        (["assert f(1) =="], "a test cannot be read: SyntaxError"),
        (
            ["assert True", "class A: pass\nassert f(A())"],
            "an object of the tests' own (A) cannot be passed to a program",
        ),
        (
            ["class A: pass\ntry:\n    f(lambda: A())\nexcept Exception:\n    pass"],
            "an object of the tests' own (A) cannot",
        ),
        (["import nowhere_to_be_found\nf(1)"], "a test imports nowhere_to_be_found, which is not installed"),
        (["assert sum([1, 2]) == 3"], "the tests use nothing of the program"),
    ],
)
def test_tests_that_cannot_be_run_leave_a_program_undecided(apart: Sandbox, tests: list[str], reason: str) -> None:
    outcome = run(apart, "def f(x): return x() if callable(x) else x", *tests)
    assert outcome.undecided.startswith(reason)
    assert not outcome.passed and not outcome.failures


@pytest.mark.parametrize(
    ("code", "test", "prelude"),
    [
        ("def max(*a): return 0", "import math\nassert math.isclose(max(1, 2), 2)", ""),
        ("def f(x): return 0", "assert f(1) == 3", "def f(x): return 3"),
    ],
)
def test_a_name_that_two_have_is_no_pass_where_nobody_says_which_is_meant(
    apart: Sandbox, code: str, test: str, prelude: str
) -> None:
    outcome = run(apart, code, test, prelude=prelude)
    assert outcome.undecided.endswith("is the program's and another's; entry_point must say what is tested")
    name = code.removeprefix("def ").partition("(")[0]
    assert not run(apart, code, test, prelude=prelude, entry_point=name).passed


def test_outcomes_keep_the_order_of_programs_and_are_the_same_each_time(sandbox: Sandbox) -> None:
    code = "import random, time\ntime.sleep({})\nprint({}, random.random(), {{'a', 'b', 'c', 'd'}})"
    programs = [Program(code.format(0.3 if number == 0 else 0, number)) for number in range(90)]
    first, second = [list(sandbox.run(iter(programs))) for _ in range(2)]
    assert [int(outcome.output.split()[0]) for outcome in first] == list(range(90))
    assert [outcome.output for outcome in first] == [outcome.output for outcome in second]
    assert len({outcome.output.partition(" ")[2] for outcome in first}) == 1
    assert list(sandbox.run([])) == []


def test_a_program_finds_nothing_of_ours(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    code = """
import os, sys
def look():
    try:
        text = input()
    except EOFError:
        text = None
    files = []
    for number in range(64):
        try:
            os.fstat(number)
            files.append(number)
        except OSError:
            pass
    return dict(os.environ), text, os.listdir("."), sys.argv, files, any("four" in path for path in sys.path)
"""
    expected = "({}, None, [], ['program'], [0, 1, 2, 3, 4], False)"
    assert run(sandbox, code, f"assert look() == {expected}, look()").passed


def test_nothing_is_left_to_the_next_program(sandbox: Sandbox) -> None:
    code = """
import builtins, os, random
before = os.listdir("."), hasattr(builtins, "mark"), random.random()
print(before)
os.makedirs("deep/" * 20)
open("file", "w").write("x" * 1000)
os.mkdir("locked", 0)
builtins.mark = 1
"""
    outputs = {outcome.output for outcome in sandbox.run([Program(code)] * 4)}
    assert len(outputs) == 1 and "([], False" in outputs.pop()


def test_running_can_be_left_at_any_point() -> None:
    """Were the programs waited for, the test would not end."""
    with Sandbox(replace(SMALL, seconds=1e6), workers=2) as sandbox:
        running = sandbox.run([Program("pass"), *[Program("import time\ntime.sleep(10**5)")] * 5])
        assert next(running).passed
        running.close()  # type: ignore[attr-defined]
        assert run(sandbox, "def f(): return 1", "assert f() == 1").passed


def _checker_of(worker: Any) -> int | None:
    """The process that checks a worker's program, once there is one beside the program's own."""
    for parent in (*_children(worker._process.pid), worker._process.pid):
        # In namespaces the worker is a child of the process that was started.
        if len(children := _children(parent)) > 1:
            return children[1]
    return None


def _when_a_program_runs(sandbox: Sandbox, act: Callable[[Any, int], None]) -> threading.Thread:
    """Act on the worker that runs the only program that does not end, given the worker and its checker."""

    def wait() -> None:
        seen: dict[int, int] = {}
        while True:
            time.sleep(0.05)
            for worker in list(sandbox._workers):
                if worker.job is None or worker._process is None:
                    continue
                with suppress(FileNotFoundError, ProcessLookupError):
                    checker = _checker_of(worker)
                    # Of short programs, no checker is seen for a second on end.
                    if checker is not None:
                        seen[checker] = seen.get(checker, 0) + 1
                        if seen[checker] == 20:
                            act(worker, checker)
                            return

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_worker_that_dies_costs_one_outcome_which_is_no_label(sandbox: Sandbox) -> None:
    thread = _when_a_program_runs(sandbox, lambda worker, _: os.kill(worker._process.pid, signal.SIGKILL))
    sleeps, right = (
        Program("import time\ntime.sleep(50)", ["assert True"]),
        Program("def f(): return 1", ["assert f() == 1"]),
    )
    outcomes = list(sandbox.run([sleeps, *[right] * 3]))
    thread.join()
    assert outcomes[0].undecided == "the sandbox failed: it has ended"
    assert [outcome.passed for outcome in outcomes] == [False, True, True, True]


def test_a_checker_that_dies_is_no_label_either(sandbox: Sandbox) -> None:
    thread = _when_a_program_runs(sandbox, lambda _, checker: os.kill(checker, signal.SIGKILL))
    outcome = run(sandbox, "import time\ndef f():\n    time.sleep(50)", "f()")
    thread.join()
    assert outcome.undecided == "the sandbox failed: the checker of a program failed"


def _children(pid: int) -> list[int]:
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_a_closed_sandbox_runs_nothing(sandbox: Sandbox) -> None:
    with Sandbox(SMALL, workers=1) as made:
        pass
    made.close()
    with pytest.raises(ValueError, match="the sandbox is closed"):
        list(made.run([Program("pass")]))


def test_an_interrupted_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_process, "read_message", interrupted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files, children = len(list(Path("/proc/self/fd").iterdir())), _children(os.getpid())
    with pytest.raises(KeyboardInterrupt):
        Sandbox(SMALL, workers=1)
    assert len(list(Path("/proc/self/fd").iterdir())) == files and _children(os.getpid()) == children
    assert list(tmp_path.iterdir()) == []


def test_what_keeps_a_successor_from_starting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(SMALL, workers=1) as made:
        monkeypatch.setattr(worker_process, "JUDGED", b"?")
        monkeypatch.setattr(worker_process, "_START", "raise SystemExit(7)")
        with pytest.raises(ConfigError, match=r"no worker of the sandbox starts: .* with status 7"):
            list(made.run([Program("pass")] * 3))


def test_workers_that_die_again_and_again_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(SMALL, workers=1) as sandbox:
        monkeypatch.setattr(worker_process, "JUDGED", b"?")
        with pytest.raises(ConfigError, match="the sandbox fails again and again: the checker of a program failed"):
            list(sandbox.run([Program("pass")] * 9))


def test_a_worker_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_START", "raise SystemExit(7)")
    with pytest.raises(
        ConfigError, match="no worker of the sandbox starts: it ended before it had begun, with status 7"
    ):
        Sandbox(SMALL)


def test_missing_protection_is_an_error_a_warning_or_nothing_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "LAYERS", ())
    with pytest.raises(
        ConfigError, match=r"features.verifier.isolation: programs cannot be kept from network and files"
    ):
        Sandbox(SMALL, "required", workers=1)
    with pytest.warns(RuntimeWarning, match="cannot be kept from network and files and processes"):
        Sandbox(SMALL, "auto", workers=1).close()
    with Sandbox(SMALL, "off", workers=1) as sandbox:
        assert not sandbox.protected["files"]
        assert run(sandbox, "import os\ndef f(path): return os.path.exists(path)", f"assert f({__file__!r})").passed


@pytest.mark.parametrize("layers", [("namespaces", "seccomp"), ("landlock", "seccomp")])
def test_a_sandbox_ends_with_the_process_that_made_it(layers: tuple[str, ...], tmp_path: Path) -> None:
    code = f"""
import os, sys
from sandbox import sandbox as module
from sandbox.sandbox import Program, Sandbox
module.LAYERS = {layers}
sandbox = Sandbox(workers=2)
print(*(worker._process.pid for worker in sandbox._workers), flush=True)
if sys.argv[1] == "busy":
    for _ in sandbox.run([Program("pass"), *[Program("import time\\ntime.sleep(1)")] * 2]):
        os.kill(os.getpid(), 9)
os.kill(os.getpid(), 9)
"""
    for how in ("idle", "busy"):
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        script = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, env=environment)
        pids = [int(pid) for pid in script.stdout.split()]
        left = [*(Path(f"/proc/{pid}") for pid in pids), *tmp_path.iterdir()]
        assert len(pids) == 2
        while any(path.exists() for path in left):
            time.sleep(0.05)
