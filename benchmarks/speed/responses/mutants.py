"""Mutants: runs MBPP's solutions, and variants with one change, in the sandbox and in separate interpreters."""

import ast
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, Ratio
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from features.sources.tasks.mbpp import Mbpp
from features.texts.tasks import Task
from sandbox.sandbox import Limits, Outcome, Program, Sandbox

LIMITS = Limits(seconds=10.0, cpu_seconds=2, memory_mb=1000)
WAYS = {
    "sandbox": "one process forked for each program with its tests",
    "interpreters": "one new interpreter for each program with its tests, as many at a time as cores; no protection",
}
RATIOS = [Ratio("interpreters", "sandbox")]

_CHANGED: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub, ast.Mult), ast.Sub: (ast.Add, ast.Mult), ast.Mult: (ast.Add, ast.FloorDiv),
    ast.Div: (ast.FloorDiv, ast.Mult), ast.FloorDiv: (ast.Div, ast.Mult), ast.Mod: (ast.FloorDiv, ast.Mult),
    ast.Pow: (ast.Mult,), ast.BitXor: (ast.BitOr, ast.BitAnd), ast.BitOr: (ast.BitAnd,), ast.BitAnd: (ast.BitOr,),
    ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.And: (ast.Or,), ast.Or: (ast.And,), ast.USub: (ast.UAdd,),
}  # fmt: skip
"""The replacements of each operator; a mutant has one of them."""

_LIMITED = f"""import resource
resource.setrlimit(resource.RLIMIT_CPU, ({LIMITS.cpu_seconds}, {LIMITS.cpu_seconds}))
resource.setrlimit(resource.RLIMIT_AS, ({LIMITS.memory_mb}000000, {LIMITS.memory_mb}000000))
"""


@dataclass(frozen=True)
class Case:
    """A program, its task, and the change in it; None for the solution itself."""

    task: str
    program: Program
    change: str | None


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5) -> Comparison:
    """Run every solution and every mutant in both ways.

    Args:
        data: Read from here if MBPP is there (`mbpp.jsonl`), else downloaded.
        workload: The tiny one stands for the first tasks only.
        repeats: How often each way runs.

    Raises:
        ConfigError: If MBPP cannot be found or downloaded.
    """
    source = Mbpp(str(data) if (data / "mbpp.jsonl").exists() else None, prompting=True, solutions=True)
    tasks = list(source.problems())[: 3 if workload == TINY else None]
    all_cases = [case for task in tasks for case in cases(task)]
    programs = [case.program for case in all_cases]
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    outcomes: list[Outcome] = []
    passed: list[bool] = []
    with Sandbox(LIMITS) as sandbox:
        for _ in range(repeats):
            started = time.perf_counter()
            outcomes = list(sandbox.run(programs))
            seconds["sandbox"].append(time.perf_counter() - started)
            started = time.perf_counter()
            passed = _in_interpreters(programs)
            seconds["interpreters"].append(time.perf_counter() - started)
    counts = {"solutions": Counter[str](), "mutants": Counter[str]()}
    differing, solutions_that_fail = [], []
    for case, outcome, as_plainly in zip(all_cases, outcomes, passed, strict=True):
        kind = "mutants" if case.change else "solutions"
        counts[kind]["undecided" if outcome.undecided else "pass" if outcome.passed else "fail"] += 1
        said = outcome.undecided or outcome.error or next(filter(None, outcome.failures), "passes")
        about = {"task": case.task, "change": case.change, "sandbox": said, "interpreter_passes": as_plainly}
        if outcome.passed != as_plainly:
            differing.append(about)
        if not case.change and not outcome.passed:
            solutions_that_fail.append(about)
    facts: dict[str, Any] = {
        "tasks": len(tasks),
        **{kind: dict(count) for kind, count in counts.items()},
        "programs_per_second": {name: round(len(programs) / min(value)) for name, value in seconds.items()},
        "both_agree": len(programs) - len(differing),
        "differing": differing,
        "solutions_that_fail": solutions_that_fail,
    }
    question = "does the sandbox tell right from wrong as a plain interpreter does?"
    return Comparison("mutants", question, WAYS, seconds, RATIOS, facts)


def cases(task: Task) -> Iterator[Case]:
    """Yield the published solution, then its mutants."""
    reference, solution = task.reference, task.responses[0].text

    def program(code: str) -> Program:
        return Program(code, tuple(reference["tests"]), reference["setup"], entry_point=reference["entry_point"])

    yield Case(task.query_id, program(solution), None)
    for change, code in mutants(solution):
        yield Case(task.query_id, program(code), change)


def mutants(code: str) -> Iterator[tuple[str, str]]:
    """Yield mutants with one operator changed, or one integer increased by one; each with the change in words."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for place, operator in enumerate(node.ops):
                yield from _with(tree, node, operator, lambda new, node=node, place=place: _put(node.ops, place, new))
        elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp | ast.UnaryOp):
            yield from _with(tree, node, node.op, lambda new, node=node: setattr(node, "op", new))
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
            yield f"{node.value - 1} to {node.value} in line {node.lineno}", ast.unparse(tree)
            node.value -= 1


def _put(operators: list[Any], place: int, new: Any) -> None:
    operators[place] = new


def _with(tree: ast.AST, node: Any, old: ast.AST, put: Callable[[Any], None]) -> Iterator[tuple[str, str]]:
    for kind in _CHANGED.get(type(old), ()):
        put(kind())
        yield f"{type(old).__name__} to {kind.__name__} in line {node.lineno}", ast.unparse(tree)
        put(old)


def _in_interpreters(programs: list[Program]) -> list[bool]:
    def passes(program: Program) -> bool:
        source = _LIMITED + "\n".join((program.code, program.setup, *program.tests))
        command = [sys.executable, "-c", source]
        null = subprocess.DEVNULL
        try:
            done = subprocess.run(command, stdin=null, stdout=null, stderr=null, env={}, timeout=LIMITS.seconds)
            return done.returncode == 0
        except subprocess.TimeoutExpired:
            return False

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as executor:
        return list(executor.map(passes, programs))
