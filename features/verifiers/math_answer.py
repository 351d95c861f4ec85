r"""math_answer: whether the answer of a response is mathematically equal to the reference."""

import importlib.util
import logging
from typing import Any

from features.texts.tasks import Task
from features.verification.answers import alone, first_answer, statement, without_thoughts
from features.verification.options import chosen_option, is_option
from features.verification.phrases import is_definite
from features.verification.verdict import Verdict
from registry import VERIFIERS

PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")
"""The packages whose versions the verdicts depend on."""
LOADED_FIRST = ("features.verification.mathematics",)
"""What workers load before they begin: sympy takes seconds, which are no time of a response."""

_DIGITS = 12
_LAST = 1000

logging.getLogger("math_verify").setLevel(logging.ERROR)
if importlib.util.find_spec("math_verify") is None:  # now, though it is loaded when it is needed, since it loads sympy
    raise ModuleNotFoundError("No module named 'math_verify'", name="math_verify")


@VERIFIERS.register("math_answer")
def math_answer(response: str, task: Task, /, *, last_expression: bool = False) -> Verdict:
    r"""1 if a response's answer equals the reference by math-verify: 1/2, 0.5 and \frac{2}{4} are equal.

    The answer is in the last \boxed{}, in an `answer` field of JSON (else `result` and the like in an object that ends
    the response), after #### or words such as `the answer is`; a model's thoughts before it and a next question after
    it are ignored. A response may be nothing but the answer. One without an answer is wrong, with the reason `no
    answer`.

    Args:
        last_expression: Whether the last formula or number counts as the answer if the response states none.
    """
    from features.verification.mathematics import equal, parsed

    if not isinstance(task.reference, str) or not parsed(task.reference):
        return Verdict(None, "no reference answer" if task.reference is None else "reference cannot be parsed")
    response = first_answer(without_thoughts(response))
    answer = statement(response)
    stated = answer.text if answer else alone(response)
    if is_option(task.reference) and (chosen := chosen_option(stated or "")):
        return Verdict(float(chosen == chosen_option(task.reference)), "", chosen)
    if answer is None and stated and not is_definite(stated):
        stated = None
    found = parsed(stated) if stated is not None else _last(response) if last_expression else []
    if not found:
        return Verdict(0.0, "no answer" if stated is None else "answer cannot be parsed", stated)
    if equal(task.reference, stated, found):
        return Verdict(1.0, "", canonical(found[0]))
    if answer and answer.by == "words" and answer.text.endswith("!"):
        # `The answer is 12!` may be joy or a factorial.
        said = answer.text[:-1]
        if equal(task.reference, said, parsed(said)):
            return Verdict(1.0, "", canonical(parsed(said)[0]))
    return Verdict(0.0, "answer cannot be parsed" if isinstance(found[0], str) else "", canonical(found[0]))


def canonical(found: Any) -> str:
    """The normal form of an answer, equal for equal answers: numbers by value, everything else as sympy writes it."""
    import sympy

    try:
        if isinstance(found, sympy.Eq) and (isinstance(found.lhs, sympy.Symbol) or found.lhs.is_number):
            found = found.rhs
        if isinstance(found, sympy.Expr) and found.is_number and found.is_real:
            number = float(found)
            # Numbers that are too small or too large for a float still differ.
            return f"{number:.{_DIGITS}g}" if number or found.is_zero else str(found.evalf(_DIGITS))
        return str(found)
    except Exception:  # sympy can raise any exception; a verdict does not need the normal form
        return ""


def _last(response: str) -> list[Any]:
    from features.verification.mathematics import last_expression

    return last_expression(response[-_LAST:])
