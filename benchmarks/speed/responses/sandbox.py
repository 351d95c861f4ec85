"""Sandbox: runs programs with tests in the sandbox's workers, against a new interpreter for each program."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.comparison import Comparison, Ratio, in_turns, seconds_of
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from sandbox.sandbox import Program, Sandbox


@dataclass(frozen=True)
class Case:
    """The number of programs to run.

    Args:
        num_problems: Number of problems, each with its own function and three tests.
        num_programs: Number of programs for each problem; every second one is wrong.
    """

    num_problems: int = 100
    num_programs: int = 10


FULL, SMALL = Case(), Case(3, 4)
WAYS = {
    "sandbox": "one process forked for each program, with its tests, in namespaces and with a filter of system calls",
    "tests apart": "the same with `trust: tests`: another process holds the tests and compares",
    "interpreters": "one new interpreter for each program with its tests, as many at a time as cores; no protection",
    "bare interpreters": "the same without site packages (-I -S), which load more slowly where there are more",
    "no process": "each program with its tests in this process, one after the other: the checked work itself",
}
RATIOS = [
    Ratio("interpreters", "sandbox", at_least=2),
    Ratio("bare interpreters", "sandbox", at_least=1),
    Ratio("tests apart", "sandbox"),
    Ratio("sandbox", "no process"),
]
_KINDS = (
    ("", "sorted(set(x))[-y:]", "sorted(x)[-y:]", ("[3, 1, 3], 2", "[5, 5], 1", "[], 3")),
    (
        "import re\n",
        "len(re.findall('[a-z]+', x)) * y",
        "len(re.findall('[a-z]', x)) * y",
        ("'ab 1 c', 2", "'', 1", "'d', 3"),
    ),
    (
        "import math\n",
        "[math.gcd(x, n) for n in range(y)]",
        "[math.lcm(x, n) for n in range(y)]",
        ("12, 9", "7, 3", "3, 20"),
    ),
    ("from collections import Counter\n", "Counter(x)[y]", "Counter(x)[x]", ("'abca', 'a'", "'', 'b'", "'zz', 'z'")),
    ("import heapq\n", "heapq.nlargest(y, x)", "heapq.nsmallest(y, x)", ("[4, 1, 9], 2", "[1], 1", "[5, 1], 3")),
    ("", "x if x < 2 else task(x - 1, y) + task(x - 2, y)", "task(x, y)", ("9, 0", "1, 0", "12, 0")),
)
"""For each problem: imports, the right result, a wrong result, and the arguments of the tests."""


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5) -> Comparison:
    """Run the same programs in each way.

    Args:
        data: Not used.
        workload: The tiny one stands for few programs.
        repeats: How often each way runs.

    Raises:
        AssertionError: If different programs pass in two ways, or the sandbox has no protection here.
    """
    case = SMALL if workload == TINY else FULL
    ours = programs(case)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    expected = _in_this_process(ours)
    assert 0 < sum(expected) < len(expected)
    with Sandbox() as sandbox, Sandbox(trust="tests") as apart:
        ways: dict[str, Callable[[], list[bool]]] = {
            "sandbox": lambda: [outcome.passed for outcome in sandbox.run(ours)],
            "tests apart": lambda: [outcome.passed for outcome in apart.run(ours)],
            "interpreters": partial(_in_interpreters, ours, cores, ()),
            "bare interpreters": partial(_in_interpreters, ours, cores, ("-I", "-S")),
            "no process": partial(_in_this_process, ours),
        }
        for name, work in ways.items():
            assert work() == expected, name
        seconds = in_turns({name: partial(seconds_of, work) for name, work in ways.items()}, repeats)
        protected = sandbox.protected
    middle = {name: median(values) for name, values in seconds.items()}
    facts: dict[str, Any] = {
        "case": asdict(case),
        "programs_per_second": {name: round(len(ours) / value) for name, value in middle.items()},
        "share_not_the_programs_own": 1 - middle["no process"] / cores / middle["sandbox"],
        "protected": protected,
    }
    return Comparison("sandbox", "how many programs can be run in a second?", WAYS, seconds, RATIOS, facts)


def programs(case: Case) -> list[Program]:
    """Short functions like those of MBPP, ordered by problem."""
    found = []
    for problem in range(case.num_problems):
        imports, *results, arguments = _KINDS[problem % len(_KINDS)]
        right, wrong = [f"{imports}def task(x, y):\n    return {result}\n" for result in results]
        namespace: dict[str, Any] = {}
        exec(right, namespace)
        tests = tuple(f"assert task({given}) == {eval(f'task({given})', namespace)!r}" for given in arguments)
        for number in range(case.num_programs):
            code = wrong if number % 2 else right
            found.append(Program(code, tests, setup=f"problem = {problem}", entry_point="task"))
    return found


def _in_interpreters(programs: list[Program], cores: int, options: tuple[str, ...]) -> list[bool]:
    def passes(program: Program) -> bool:
        source = "\n".join((program.code, program.setup, *program.tests))
        command = [sys.executable, *options, "-c", source]
        return subprocess.run(command, stderr=subprocess.DEVNULL, env={}, timeout=60).returncode == 0

    with ThreadPoolExecutor(cores) as executor:
        return list(executor.map(passes, programs))


def _in_this_process(programs: list[Program]) -> list[bool]:
    found = []
    for program in programs:
        try:
            exec("\n".join((program.code, program.setup, *program.tests)), {})
            found.append(True)
        except Exception:
            found.append(False)
    return found
