"""unit_tests: whether the code in a response passes the tests of its task, run in the sandbox."""

import ast
import platform
import re
import textwrap
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from features.texts.tasks import Task
from features.verification.answers import without_thoughts
from features.verification.verdict import Verdict
from registry import VERIFIERS
from registry.ranges import Few
from sandbox.sandbox import DEFAULT_LIMITS, Isolation, Limits, Outcome, Program, Sandbox

_MARKED = re.compile(
    r"^[^\S\n]*#[^\S\n]*START OF CODE[^\n]*\n(.*?)(?=^[^\S\n]*#[^\S\n]*END OF CODE|\Z)", re.DOTALL | re.MULTILINE | re.I
)
_FENCED = re.compile(r"^[^\S\n]*(```|~~~)[^\n]*\n(.*?)(?=^[^\S\n]*\1|\Z)(?:^[^\S\n]*\1)?", re.DOTALL | re.MULTILINE)


@VERIFIERS.register("unit_tests")
class UnitTests:
    """1 if the code in a response passes all tests of its task, else 0.

    The code is the text between `#START OF CODE` and `#END OF CODE`, else the last fenced block, else the whole
    response; of several blocks, the last one that defines the function under test. A model's thoughts before its answer
    are ignored. A program that exceeds a limit fails. There is no verdict if a task has no tests, the tests cannot
    run in the sandbox, or the sandbox fails.

    Args:
        partial: Whether the label is the share of tests that pass, instead of 1 only if all pass.
        limits: The resources that a program may use.
        isolation: What to do if the sandbox cannot protect network, files and other processes from programs:
            `required` refuses to start, `auto` warns; `off` never protects files and does not warn.
        processes: How many programs run at a time; null for one more than the number of CPU cores.
    """

    def __init__(
        self,
        partial: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        isolation: Isolation = "auto",
        processes: Few | None = None,
    ) -> None:
        self.partial, self.limits, self.processes = partial, limits, processes
        self.isolation: Isolation = isolation

    def settings(self) -> dict[str, Any]:
        """The options, and the version of Python that runs the code."""
        version = platform.python_version()
        return {"name": "unit_tests", "partial": self.partial, "limits": asdict(self.limits), "python": version}

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

        with Sandbox(self.limits, self.isolation, self.processes) as sandbox:
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
    code = code_of(response, entry_point)
    if not code.strip():
        return Verdict(0.0, "no code")
    whole = completed(code, prelude, entry_point)
    return Program(whole, tuple(tests), setup, prelude, entry_point)


def code_of(response: str, entry_point: str | None = None) -> str:
    """The code in a response.

    >>> code_of("Sure!\\n#START OF CODE\\nx = 1\\n#END OF CODE\\nDone.")
    'x = 1\\n'
    """
    text = response.replace("\r\n", "\n")
    text = text if _is_python(text) else without_thoughts(text)
    marked = _chosen(_MARKED.findall(text), entry_point)
    text = text if marked is None else marked
    fenced = _chosen([block for _, block in _FENCED.findall(text)], entry_point)
    # If the whole text is Python, its fences are inside docstrings.
    return text if fenced is None or _is_python(text) else fenced


def completed(code: str, prelude: str, entry_point: str | None) -> str:
    """Put the prelude before code: its imports and helpers, or the signature if the code is only a function body."""
    if not prelude.strip():
        return code
    if entry_point is not None and not defines(code, entry_point):
        return prelude + code
    return f"{prelude}\n\n{code}" if _is_python(prelude) else code


def defines(code: str, name: str) -> bool:
    """Whether code defines this name at the top level, judged line by line."""
    name = re.escape(name)
    return re.search(rf"^(?:(?:async +)?def|class) +{name}\b|^{name}\b[^=\n]*=(?!=)", code, re.MULTILINE) is not None


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _chosen(blocks: list[str], entry_point: str | None) -> str | None:
    """The last block that defines the function, else the last block; None if there are no blocks."""
    flush = [textwrap.dedent(block) for block in blocks]
    if entry_point is None:
        return next(reversed(flush), None)
    return next(reversed([block for block in flush if defines(block, entry_point)] or blocks), None)


def _ahead(early: deque[Verdict | None]) -> Iterator[Verdict]:
    """Yield the verdicts that come before that of the next program."""
    while early and (verdict := early[0]) is not None:
        early.popleft()
        yield verdict
