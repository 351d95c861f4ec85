"""unit_tests: whether the code in a response passes the tests of its task, run in the sandbox."""

import builtins
import platform
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from features.texts.tasks import Task
from features.verification.programs import code_of, completed, names_needed
from features.verification.verdict import Verdict
from registry import VERIFIERS
from registry.ranges import Few
from sandbox.plan import plan_of
from sandbox.sandbox import DEFAULT_LIMITS, Isolation, Limits, Outcome, Program, Sandbox, Trust


@VERIFIERS.register("unit_tests")
class UnitTests:
    """1 if the code in a response passes all tests of its task, else 0.

    The code is the text between `#START OF CODE` and `#END OF CODE`, else the blocks that define what the tests use,
    with those that they need, else the code in the prose, else the whole response. A model's thoughts before its answer
    are ignored. Tests are statements, pytest's functions and classes (without fixtures), or unittest's classes. A
    program that exceeds a limit fails. There is no verdict if a task has no tests, they ask nothing of the program,
    check nothing or cannot run in the sandbox, or the sandbox fails.

    Args:
        partial: Whether the label is the share of tests that pass, instead of 1 only if all pass.
        limits: The resources that a program may use.
        isolation: What to do if the sandbox cannot protect network, files and other processes from programs:
            `required` refuses to start, `auto` warns; `off` never protects files and does not warn.
        processes: How many programs run at a time; null for one more than the number of CPU cores.
        trust: What a verdict relies on. `program` runs the tests where the program runs, as a plain interpreter does; a
            program made to fake its verdict can do so. `tests` runs them in another process, where no program can fake
            a pass; programs whose objects cannot pass between the two may get no verdict.
    """

    def __init__(
        self,
        partial: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        isolation: Isolation = "auto",
        processes: Few | None = None,
        trust: Trust = "program",
    ) -> None:
        self.trust: Trust = trust
        self.partial, self.limits, self.processes = partial, limits, processes
        self.isolation: Isolation = isolation

    def settings(self) -> dict[str, Any]:
        """The options, and the version of Python that runs the code."""
        version = platform.python_version()
        options = {"partial": self.partial, "limits": asdict(self.limits), "trust": self.trust}
        return {"name": "unit_tests", **options, "python": version}

    def verify(self, responses: Iterable[tuple[Task, str]]) -> Iterator[Verdict]:
        """Yield a verdict for each response in order.

        Args:
            responses: Pairs of a task and a response; references have `tests`, and optionally `setup`, `prelude`
                and `entry_point`.

        Raises:
            ConfigError: If the sandbox does not start, or fails again and again.
        """
        early: deque[Verdict | None] = deque()

        def programs() -> Iterator[Program]:
            for task, response in responses:
                found = program_of(response, task.reference)
                early.append(found if isinstance(found, Verdict) else None)
                if isinstance(found, Program):
                    yield found

        with Sandbox(self.limits, self.isolation, self.processes, trust=self.trust) as sandbox:
            for outcome in sandbox.run(programs()):
                yield from _ahead(early)
                early.popleft()
                yield self._verdict(outcome)
        yield from _ahead(early)

    def _verdict(self, outcome: Outcome) -> Verdict:
        if outcome.undecided:
            return Verdict(None, outcome.undecided)
        passed = sum(not failure for failure in outcome.failures)
        label = passed / len(outcome.failures) if self.partial and outcome.failures else float(outcome.passed)
        return Verdict(label, outcome.error or next(filter(None, outcome.failures), ""))


def program_of(response: str, reference: Any) -> Program | Verdict:
    """The program in a response with the tests of its task, or a verdict if there is nothing to run."""
    if not isinstance(reference, Mapping) or not reference.get("tests"):
        return Verdict(None, "no tests")
    tests, entry_point = reference["tests"], reference.get("entry_point")
    setup, prelude = (reference.get(name) or "" for name in ("setup", "prelude"))
    if not isinstance(tests, Sequence) or isinstance(tests, str):
        return Verdict(None, "tests are not a list of texts")
    if not all(isinstance(text, str) for text in (*tests, setup, prelude, entry_point or "")):
        return Verdict(None, "tests, setup, prelude or entry_point are not texts")
    code = code_of(response, *_names_of(setup, tuple(tests), entry_point))
    if not code.strip():
        return Verdict(0.0, "no code")
    whole = completed(code, prelude, entry_point)
    return Program(whole, tuple(tests), setup, prelude, entry_point)


@lru_cache(maxsize=256)
def _names_of(setup: str, tests: tuple[str, ...], entry_point: str | None) -> tuple[list[str], list[str]]:
    """The names that a program must define, and others that tests use and it may define."""
    used = names_needed("\n".join((setup, *tests)))
    used = used or {name for source in (setup, *tests) for name in names_needed(source)}
    used |= {
        name for module, names in plan_of(setup, tests, entry_point).imports for name in names if not _exists(module)
    }
    own = {name for name in used if not hasattr(builtins, name) and not _exists(name)} or used
    return ([entry_point], sorted(own)) if entry_point else (sorted(own), sorted(used - own))


def _exists(module: str) -> bool:
    return module.partition(".")[0] in {*sys.stdlib_module_names, "pytest"}


def _ahead(early: deque[Verdict | None]) -> Iterator[Verdict]:
    """Yield the verdicts that come before that of the next program."""
    while early and (verdict := early[0]) is not None:
        early.popleft()
        yield verdict
