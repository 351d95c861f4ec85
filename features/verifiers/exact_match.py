"""exact_match: whether a response equals the reference text."""

from features.texts.tasks import Task
from features.verification.answers import stated_answer, without_thoughts
from features.verification.verdict import Verdict
from registry import VERIFIERS


@VERIFIERS.register("exact_match")
def exact_match(response: str, task: Task, /, *, ignore_case: bool = False, stated: bool = False) -> Verdict:
    r"""1 if a response equals the reference, or one of several references.

    Runs of whitespace count as one space, and whitespace at both ends is ignored. A model's thoughts before its answer
    are ignored.

    Args:
        ignore_case: Whether to ignore upper and lower case.
        stated: Whether to compare only the answer that the response states, in \boxed{}, after #### and so on.
    """
    references = [task.reference] if isinstance(task.reference, str) else task.reference
    if not isinstance(references, list) or not references or not all(isinstance(each, str) for each in references):
        return Verdict(None, "no reference text")
    response = without_thoughts(response)
    text = stated_answer(response) if stated else response
    if text is None:
        return Verdict(0.0, "no answer")
    answer = _simple(text, ignore_case)
    return Verdict(float(answer in {_simple(each, ignore_case) for each in references}), "", answer)


def _simple(text: str, ignore_case: bool) -> str:
    words = " ".join(text.split())
    return words.casefold() if ignore_case else words
