"""final_number: whether the number a response comes to is that of the reference."""

import re
from fractions import Fraction

from features.answers import stated_answer
from features.problems import Problem
from features.verification import Verdict
from registry import VERIFIERS

_NUMBER = re.compile(
    r"(?:(?<![\w)])[-−](?=[$\d.]))?"  # a minus, but not that of 5-3 or 5 - 3
    r"\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:\s?/\s?\d+(?![\d.]))?"
)


@VERIFIERS.register("final_number")
def final_number(response: str, problem: Problem, /, *, stated: bool = False) -> Verdict:
    r"""1 if a response's number equals the reference's, however written: 1,000, $1000.00 and 2000/2 are one number.

    The number is the last one of the answer that the response states, in \boxed{}, after ####, `A:` or words such as
    `the answer is`; else the last one there is.

    Args:
        stated: Whether a number counts only where it is stated as the answer.
    """
    if (expected := last_number(str(problem.reference))) is None:
        return Verdict(None, "no reference number")
    answer = stated_answer(response)
    found = last_number(answer or "")
    if found is None and not stated:
        found = last_number(response)
    if found is None:
        return Verdict(0.0, "no number")
    return Verdict(float(found == expected), "", str(found))


def last_number(text: str) -> Fraction | None:
    """The last number in a text, exactly.

    >>> last_number("3 boxes at $1,250.50 each")
    Fraction(2501, 2)
    """
    for found in reversed(_NUMBER.findall(text)):
        digits = re.sub(r"[\s$,]", "", found).replace("−", "-")
        try:
            return Fraction(digits)
        except (ValueError, ZeroDivisionError):
            continue
    return None
