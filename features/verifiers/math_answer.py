r"""math_answer: whether the answer of a response is mathematically equal to the reference."""

import logging
import re
from functools import lru_cache
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from features.texts.tasks import Task
from features.verification.answers import first_answer, stated_answer, without_thoughts
from features.verification.verdict import Verdict
from registry import VERIFIERS

PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")
"""The packages whose versions the verdicts depend on."""

_DIGITS = 12
_PLAIN = [
    (re.compile(r"√\s*(\([^()]*\)|\{[^{}]*\}|\w+)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])sqrt\s*(\([^()]*\)|\{[^{}]*\})"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi"),
    (re.compile(r"(?<![\d./^_{}])(\d+)\s+(\d+)/(\d+)(?![\d/])"), r"\1\\frac{\2}{\3}"),
    (re.compile("−"), "-"),
]
# Quotes and dollars on both sides, or a dollar on one; not \\$, and not the primes of a derivative.
_AROUND = re.compile(
    r"^\s*(?P<mark>[\"'$]*)\s*(?P<in>.*?)\s*(?<!\\)(?:(?P=mark)|\$*)\s*(?:(?<=[\d)}\]])\.)?\s*$", re.DOTALL
)
_OPTION = re.compile(
    r"\s*(?:\\(?:text|mathrm|textbf)\s*\{\s*)?\(?(?P<letter>[A-Z])(?:\)|\}|\)\}|[.:](?=\s|$)|\s*$)(?!\w)"
)
"""The letter of an option, such as C, (C) or C) 12."""
_LAST = 1000

# math-verify's own timeouts use SIGALRM and count a timeout as a wrong answer; here the worker is killed instead.
_ALONE: Any = {"parsing_timeout": None}
logging.getLogger("math_verify").setLevel(logging.ERROR)


@VERIFIERS.register("math_answer")
def math_answer(response: str, task: Task, /, *, last_expression: bool = False) -> Verdict:
    r"""1 if a response's answer equals the reference by math-verify: 1/2, 0.5 and \frac{2}{4} are equal.

    The answer is in the last \boxed{}, in an `answer` field of JSON, after #### or words such as `the answer is`; a
    model's thoughts before it are ignored. A response without an answer is wrong, with the reason `no answer`.

    Args:
        last_expression: Whether the last formula or number counts as the answer if the response states none.
    """
    if not isinstance(task.reference, str) or not (expected := _parsed(task.reference)):
        return Verdict(None, "no reference answer" if task.reference is None else "reference cannot be parsed")
    response = first_answer(without_thoughts(response))
    stated = stated_answer(response)
    if (right := _OPTION.fullmatch(task.reference)) and (chosen := _OPTION.match(stated or "")):
        return Verdict(float(chosen["letter"] == right["letter"]), "", chosen["letter"])
    found = _parsed(stated) if stated is not None else _last_expression(response) if last_expression else []
    if not found:
        return Verdict(0.0, "no answer" if stated is None else "answer cannot be parsed", stated)
    if verify(expected, found, timeout_seconds=None):
        return Verdict(1.0, "", canonical(found[0]))
    return Verdict(0.0, "answer cannot be parsed" if isinstance(found[0], str) else "", canonical(found[0]))


def canonical(found: Any) -> str:
    """The normal form of an answer, equal for equal answers: numbers by value, everything else as sympy writes it."""
    try:
        if isinstance(found, sympy.Eq) and (isinstance(found.lhs, sympy.Symbol) or found.lhs.is_number):
            found = found.rhs
        if isinstance(found, sympy.Expr) and found.is_number and found.is_real:
            return f"{float(found):.{_DIGITS}g}"
        return str(found)
    except Exception:  # sympy can raise any exception; a verdict does not need the normal form
        return ""


@lru_cache(maxsize=64)
def _parsed(answer: str) -> list[Any]:
    """The answer as math-verify parses it: an expression and its text, or only the text."""
    return parse(rf"\boxed{{{latex(answer)}}}", [LatexExtractionConfig(boxed_match_priority=0)], **_ALONE)


def _last_expression(response: str) -> list[Any]:
    return parse(response[-_LAST:], **_ALONE)


def latex(answer: str) -> str:
    r"""Convert numbers in an answer that are not LaTeX to LaTeX.

    >>> latex("1 1/2 + √(3)")
    '1\\frac{1}{2} + \\sqrt{(3)}'
    """
    answer = _AROUND.sub(lambda found: found["in"], answer)
    for pattern, written in _PLAIN:
        answer = pattern.sub(written, answer)
    return answer
