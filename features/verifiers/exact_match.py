"""exact_match: whether a response equals the reference text."""

import re

from features.texts.tasks import Task
from features.verification.answers import alone, first_answer, stated_answer, without_thoughts
from features.verification.options import chosen_option, is_option
from features.verification.verdict import Verdict
from registry import VERIFIERS

_AROUND = re.compile(
    r"""^(?:\\(?:text|textbf|mathrm|textit)\s*\{(?P<text>[^{}]*)\}|(?P<mark>\$\$?|["'`*]{1,2})(?P<inner>.*)(?P=mark)
    |\\[(\[](?P<math>.*)\\[)\]])\.?$|(?<=\w)\.$""",
    re.DOTALL | re.VERBOSE,
)


@VERIFIERS.register("exact_match")
def exact_match(response: str, task: Task, /, *, ignore_case: bool = False, stated: bool = False) -> Verdict:
    r"""1 if a response equals the reference, or one of several references.

    Runs of whitespace count as one space, and whitespace at both ends is ignored. A model's thoughts before its answer
    are ignored.

    Args:
        ignore_case: Whether to ignore upper and lower case.
        stated: Whether to compare only the answer that the response states, in \boxed{}, after #### and so on, without
            quotes, dollars and a full stop around it; or the whole response if it is one line. Where the reference is
            the letter of an option, the answer may have more than the letter, such as `(C) 12`.
    """
    references = [task.reference] if isinstance(task.reference, str) else task.reference
    if not isinstance(references, list) or not references or not all(isinstance(each, str) for each in references):
        return Verdict(None, "no reference text")
    response = without_thoughts(response)
    first = first_answer(response)
    text = (stated_answer(first) or alone(first) or "") if stated else response
    if stated and all(map(is_option, references)) and (chosen := chosen_option(text)):
        return Verdict(float(chosen in map(chosen_option, references)), "", chosen)
    answer, *accepted = (_simple(_bare(each) if stated else each, ignore_case) for each in (text, *references))
    if stated and answer not in accepted and not stated_answer(first):
        return Verdict(0.0, "no answer")
    return Verdict(float(answer in accepted), "", answer)


def _bare(answer: str) -> str:
    r"""An answer without dollars, quotes, stars, a full stop, or \text{} around it."""
    for _ in range(3):
        answer = _AROUND.sub(lambda found: found["text"] or found["inner"] or found["math"] or "", answer).strip()
    return answer


def _simple(text: str, ignore_case: bool) -> str:
    words = " ".join(text.split())
    return words.casefold() if ignore_case else words
