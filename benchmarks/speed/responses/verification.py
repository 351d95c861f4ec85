"""Verification: judging recorded answers of MATH, against the checks alone and against a pool without timeouts."""

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.comparison import Comparison, Ratio, in_turns
from benchmarks.peers import require
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from features.texts.tasks import Task
from features.verification.verdict import Verdict
from features.verification.workers import RuleVerifier, Workers
from features.verifiers.exact_match import exact_match

PROCESSES = 2
RESPONSES_A_PROBLEM = 16
WAYS = {
    "ours": "math_answer in two worker processes, each response with a hard timeout",
    "hardly a check": "the same responses and workers, with exact_match, which compares two texts",
    "pool": "multiprocessing.Pool of two, the same function, no timeouts: one response that hangs would end the run",
    "one process": "the same function in a loop, no timeouts",
}
RATIOS = [
    Ratio("ours", "hardly a check", at_least=20),
    Ratio("pool", "ours", at_least=0.95),
    Ratio("one process", "ours", at_least=1.7),
]

Item = tuple[Task, str]


def measure(data: Path, workload: Workload = MBPP, repeats: int = 5) -> Comparison:
    """Judge the same responses in each way.

    Args:
        data: Not used.
        workload: The tiny one stands for few responses.
        repeats: How often each way runs.

    Raises:
        ConfigError: If math-verify is not installed.
        AssertionError: If two ways give different labels.
    """
    require("math_verify")
    from features.verifiers.math_answer import math_answer

    items = list(recorded(64 if workload == TINY else 10_000))
    verifiers = {
        "ours": RuleVerifier({"name": "math_answer"}, partial(math_answer), Workers(PROCESSES)),
        "hardly a check": RuleVerifier({"name": "exact_match"}, partial(exact_match), Workers(PROCESSES)),
    }
    labels: dict[str, list[float | None]] = {}
    with multiprocessing.get_context("forkserver").Pool(PROCESSES) as pool:
        checks: dict[str, Callable[[list[Item]], list[Verdict]]] = {
            **{name: partial(_verified, verifier) for name, verifier in verifiers.items()},
            "pool": lambda items: pool.starmap(math_answer, _turned(items), chunksize=RESPONSES_A_PROBLEM),
            "one process": lambda items: [math_answer(*each) for each in _turned(items)],
        }

        def timed(name: str) -> Callable[[], float]:
            def work() -> float:
                started = time.perf_counter()
                found = checks[name](items)
                seconds = time.perf_counter() - started
                labels[name] = [verdict.label for verdict in found]
                return seconds

            return work

        for check in checks.values():
            check(items[: 4 * RESPONSES_A_PROBLEM])
        seconds = in_turns({name: timed(name) for name in checks}, repeats)
    assert labels["ours"] == labels["pool"] == labels["one process"]
    facts = {
        "responses": len(items),
        "responses_a_second": {name: len(items) / median(of) for name, of in seconds.items()},
        "share_that_is_not_checking": median(seconds["hardly a check"]) / median(seconds["ours"]),
        "right": sum(label == 1 for label in labels["ours"]) / len(items),
    }
    question = "how long does it take to judge recorded answers of MATH?"
    return Comparison("verification", question, WAYS, seconds, RATIOS, facts)


def recorded(number: int) -> Iterator[Item]:
    """Yield responses as long as those to MATH, with answers in the notation of models; a third of them is right."""
    draw = random.Random(0)
    for place in range(0, number, RESPONSES_A_PROBLEM):
        kind = draw.choice(_KINDS)
        expected = _written(kind, draw)
        task = Task(f"q{place}", "a query", [], expected)
        for _ in range(min(RESPONSES_A_PROBLEM, number - place)):
            answer = expected if draw.random() < 1 / 3 else _written(kind, draw)
            steps = (f"Then $x_{{{step}}} = {draw.randint(0, 99)}$ follows." for step in range(draw.randint(5, 50)))
            yield task, f"{' '.join(steps)}\n\nSo the answer is $\\boxed{{{answer}}}$."


_KINDS: list[Callable[[int, int, int], str]] = [
    lambda a, b, c: f"{a}",
    lambda a, b, c: f"\\frac{{{a}}}{{{b}}}",
    lambda a, b, c: f"{a}\\sqrt{{{b}}}",
    lambda a, b, c: f"({a},{b})",
    lambda a, b, c: f"{a}x^2 + {b}x + {c}",
    lambda a, b, c: f"\\frac{{{a} + \\sqrt{{{b}}}}}{{{c}}}",
    lambda a, b, c: f"[{a},{a + b})",
]


def _written(kind: Callable[[int, int, int], str], draw: random.Random) -> str:
    return kind(draw.randint(-30, 30), draw.randint(2, 12), draw.randint(2, 12))


def _verified(verifier: RuleVerifier, items: list[Item]) -> list[Verdict]:
    return list(verifier.verify(items))


def _turned(items: list[Item]) -> list[tuple[str, Task]]:
    return [(response, task) for task, response in items]
