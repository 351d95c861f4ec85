"""final_number: whether the final number of a response equals that of the reference."""

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from unicodedata import numeric

from features.texts.tasks import Task
from features.verification.answers import first_answer, statement, without_thoughts
from features.verification.phrases import is_none
from features.verification.verdict import Verdict
from registry import VERIFIERS

_NUMBER = re.compile(
    r"(?P<minus>(?<![\w)])[-−–](?=[$\d.]))?"  # a minus sign, but not the one in 5-3 or 5 - 3
    r"\$?(?:(?P<whole>\d+)\s+(?=\d+/\d))?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,2}(?!\d))?|\.\d+)"
    r"(?:\s?/\s?(?P<denominator>\d+)(?![\d.])|(?:\s|\\text\s*\{|[*~])*(?P<scale>(?i:hundred|thousand|(?:m|b|tr)illion)s?)\b(?!-))?"
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_Written = str | Callable[[re.Match[str]], str]
_PLAIN: list[tuple[re.Pattern[str], _Written]] = [
    (re.compile(r"(?<=\d)(?:\{,\}|,?\\[,!;: ]|[\u00a0\u2009\u202f'’_])(?=\d{3}(?!\d))"), ","),  # 1{,}000 and 1\,000
    (
        re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3})+,\d\d?(?![\d,.]?\d)"),  # 1.234,56
        lambda found: found[0].replace(".", "").replace(",", "."),
    ),
    (re.compile("[¼-¾⅐-⅞]"), lambda found: f" {Fraction(numeric(found[0])).limit_denominator(10)}"),  # 1½
    (re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})* 000(?!\d|\.\d)"), lambda found: found[0].replace(" ", "")),  # 70 000
    (re.compile(r"(?<=\d)\s*(?=\\[dt]?frac)"), " "),
    (re.compile(r"\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"), r"\1\2/\3\4"),
    (re.compile(r"(?<=[^\d\s])\s*\^\s*(?:\{\s*-?\d+\s*\}|-?\d)"), ""),  # the exponent of a unit
]
_AT_THE_START: list[tuple[re.Pattern[str], _Written]] = [
    (re.compile(r"^(?:[-−–]|(?i:negative|minus)\b)\s+(?=[$\d.])"), "-"),  # - 3
    (re.compile(r"^([-−–]?)\\?([$€£¥])\s*(?=[-−–\d.])"), r"\1"),
    (
        re.compile(r"^[-−–]?\d{1,3}(?: \d{3})+(?!\d|\s?/)(?![^\S\n]*[-+*/×÷=])"),  # 70 000
        lambda found: found[0].replace(" ", ""),
    ),
    (re.compile(r"^([-−–]?\$?\d[\d,]*(?:\.\d+)?)\s?[kK]\b"), r"\1 thousand"),
    (re.compile(r"^([-−–]?\d[\d,]*(?:\.\d+)?)M\b"), r"\1 million"),
    (re.compile(r"^([-−–]?\d[\d,]*(?:\.\d+)?)B\b"), r"\1 billion"),
]
_MOST_BITS = 10_000
_GOES_ON = re.compile(
    r"(?!\s*=[^=]*(?:[-+*/×÷·⋅∙]|\d\()[^=]*$)"  # 18 = 9 * 2, the other way round
    r"(?:\(\d|\s*(?:[-−–+/×÷·⋅∙=^]|\*(?!\*)|\\(?:times|cdot|div|frac)\b|[x%]\s*\d|(?:plus|minus|times)\b))"
)
# What follows the first number of a computation with its result: 20% of 75 is 15, 60 minutes - 45 minutes = 15 minutes.
_COMPUTED = re.compile(
    r"(?:%\s+of\b|(?:\s+[^\W\d_]+){1,3}\s*[-−–+x×*/÷·⋅∙]\s*[\d$(])[^=]*(?:=|\bis\b|\bequals\b)[^-+*/×÷·⋅∙=]*$"
)


@VERIFIERS.register("final_number")
def final_number(response: str, task: Task, /, *, stated: bool = False) -> Verdict:
    r"""1 if the response's number equals the reference's in any notation: 1,000, $1000.00 and 2000/2 are equal.

    The number is in the answer that the response states, in \boxed{}, after ####, `A:` or words such as `the answer
    is`: the number at its beginning, as in `18 for 3 days`, else the last number in it, as in `9 * 2 = 18`. If no
    answer is stated, it is the last number of the response. A stated answer without a number, such as `cannot be
    determined`, is wrong. A model's thoughts before its answer are ignored, and so is a next question after it.

    Args:
        stated: Whether a number counts only if the response states it as the answer.
    """
    if (expected := last_number(_with_signs(str(task.reference)))) is None:
        return Verdict(None, "no reference number")
    response = first_answer(without_thoughts(response))
    answer = statement(response)
    found = _stated_number(answer.text) if answer else None
    if found is None and answer and (answer.by != "words" or is_none(answer.text)):
        return Verdict(0.0, "answer is no number", answer.text)
    if found is None and not stated:
        found = last_number(response)
    if found is None:
        return Verdict(0.0, "no number")
    return Verdict(float(found == expected), "", _written(found))


def last_number(text: str) -> Fraction | None:
    """The exact value of the last number in a text.

    >>> last_number("3 boxes at $1,250.50 each")
    Fraction(2501, 2)
    """
    numbers = (_value(found) for found in reversed(list(_NUMBER.finditer(_plain(text)))))
    return next((number for number in numbers if number is not None), None)


def _stated_number(answer: str) -> Fraction | None:
    plain = _with_signs(answer)
    first = _NUMBER.match(plain)
    goes_on = first and (_GOES_ON.match(plain, first.end()) or _COMPUTED.match(plain, first.end()))
    if first and not goes_on and (number := _value(first)) is not None:
        return number
    return last_number(plain)


def _with_signs(answer: str) -> str:
    """An answer that begins with a number, with its sign and its thousands together: - 3 and 70 000."""
    plain = _plain(answer).lstrip(r" \(*:$`")
    for pattern, written in _AT_THE_START:
        plain = pattern.sub(written, plain)
    return plain


def _plain(text: str) -> str:
    for pattern, written in _PLAIN:
        text = pattern.sub(written, text)
    return text


def _value(found: re.Match[str]) -> Fraction | None:
    """The exact value; None for a division by zero."""
    # Decimal accepts texts with more than 4,300 digits, which models may write; int and Fraction do not.
    whole, digits, denominator = (
        Fraction(Decimal(text.replace(",", "")))
        for text in (found["whole"] or "0", found["digits"], found["denominator"] or "1")
    )
    if denominator == 0:
        return None
    number = whole + digits / denominator
    if found["scale"]:
        number *= 10 ** _SCALES.get(found["scale"].lower().removesuffix("s"), 0)
    return -number if found["minus"] else number


def _written(number: Fraction) -> str:
    """A number as text, equal for equal numbers; in hexadecimal if it has more digits than Python writes."""
    short = max(number.numerator.bit_length(), number.denominator.bit_length()) <= _MOST_BITS
    return str(number) if short else f"{number.numerator:x}/{number.denominator:x}"
