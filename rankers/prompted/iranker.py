"""IRanker: a language model removes the least relevant candidate, again and again."""

from collections import Counter
from collections.abc import Sequence
from typing import Unpack

from rankers.prompted.answers import final_answer, matched
from rankers.prompted.prompted_ranker import Asking, AskingOptions, PromptedRanker, Questions
from registry import RANKERS
from registry.ranges import Text

_TASK = "find the candidate that is most relevant to the query"


@RANKERS.register("iranker")
class IRanker(PromptedRanker):
    """Iterative elimination (Feng et al. 2025, arXiv 2506.21638): a candidate's rank is the round of its removal.

    The model reasons in <think> and names a candidate in <answer>, by its number or its text. That is matched exactly,
    then as a part, then with the most similar candidate. If it names none, the last candidate is removed.

    Args:
        task: What the ranking is for, to complete "Your task is to ...".
    """

    def __init__(self, task: Text = _TASK, **options: Unpack[AskingOptions]) -> None:
        super().__init__(**options)
        self._task = task

    def ranking(self, query: str, candidates: Sequence[str], faults: Counter[str]) -> Asking:
        """Remove candidates until one is left; a candidate's score is the number of the round that it lasted to."""
        left, scores = list(range(len(candidates))), [0.0] * len(candidates)
        for number in range(len(candidates) - 1):
            shown = [candidates[place] for place in left]
            answers = yield Questions([self._chat(query, shown)])
            assert answers is not None
            place = matched(final_answer(str(answers[0])), shown, faults)
            scores[left.pop(-1 if place is None else place)] = float(number)
        scores[left[0]] = float(len(candidates) - 1)
        return scores

    def _chat(self, query: str, candidates: Sequence[str]) -> list[dict[str, str]]:
        listed = "\n".join(f"[{number}] {text}" for number, text in enumerate(candidates, start=1))
        text = (
            f"Your task is to {self._task}, by removing the worst candidate again and again.\n\nQuery: {query}\n\n"
            f"Candidates:\n{listed}\n\nWhich of these candidates is the least likely to be the best one, and should be "
            "removed now? Reason inside <think> and </think>, then give the number of that candidate alone inside "
            "<answer> and </answer>, such as <answer>[1]</answer>."
        )
        return [{"role": "user", "content": text}]
