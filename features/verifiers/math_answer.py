r"""math_answer: whether the answer a response states is equal, as mathematics, to that of the reference."""

import logging
from functools import lru_cache
from typing import Any

import sympy
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from features.answers import stated_answer
from features.problems import Problem
from features.verification import Verdict
from registry import VERIFIERS

PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")
"""What the verdicts depend on besides this repository."""

_DIGITS = 12
_LAST = 1000

# Its own timeouts use SIGALRM and turn what takes too long into a wrong answer; here the worker is killed instead.
_NO_TIMEOUT: Any = None
logging.getLogger("math_verify").setLevel(logging.ERROR)


@VERIFIERS.register("math_answer")
def math_answer(response: str, problem: Problem, /, *, last_expression: bool = False) -> Verdict:
    r"""1 if a response's answer equals the reference by math-verify: 1/2, 0.5 and \frac{2}{4} are one answer.

    The answer is what stands in the last \boxed{}, in an `answer` field of JSON, after #### or words such as `the
    answer is`. A response that states none is wrong, with the reason `no answer`.

    Args:
        last_expression: Whether the last formula or number of a response that states no answer counts as its answer.
    """
    if not isinstance(problem.reference, str) or not (expected := _parsed(problem.reference)):
        return Verdict(None, "no reference answer" if problem.reference is None else "reference cannot be parsed")
    stated = stated_answer(response)
    if stated is not None:
        found = _parsed(stated)
    elif last_expression:
        found = parse(response[-_LAST:], parsing_timeout=_NO_TIMEOUT)
    else:
        found = []
    if not found:
        return Verdict(0.0, "no answer" if stated is None else "answer cannot be parsed", stated)
    right = verify(expected, found, timeout_seconds=_NO_TIMEOUT)
    return Verdict(float(right), "", canonical(found[0]))


def canonical(found: Any) -> str:
    """An answer in a form that is equal for equal answers: numbers by their value, all else as sympy writes it."""
    if isinstance(found, sympy.Eq) and isinstance(found.lhs, sympy.Symbol):
        found = found.rhs
    if isinstance(found, sympy.Expr) and found.is_number:
        value = sympy.N(found, _DIGITS)
        if isinstance(value, sympy.Float):
            return f"{float(value):.{_DIGITS}g}"
        return str(value)
    return str(found)


@lru_cache(maxsize=64)
def _parsed(answer: str) -> list[Any]:
    """What math-verify makes of an answer: an expression, and the text that it was made from."""
    settings = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return parse(rf"\boxed{{{answer.strip().strip('$')}}}", settings, parsing_timeout=_NO_TIMEOUT)
