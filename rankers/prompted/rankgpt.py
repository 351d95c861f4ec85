"""RankGPT: a language model permutes the passages of a window, which slides from the last passages to the first."""

from collections import Counter
from collections.abc import Sequence
from typing import Unpack

from rankers.prompted.answers import permutation
from rankers.prompted.prompted_ranker import Asking, AskingOptions, PromptedRanker, Questions
from registry import RANKERS
from registry.ranges import Count

_SYSTEM = "You are RankGPT, an intelligent assistant that can rank passages based on their relevancy to the query."


@RANKERS.register("rankgpt")
class RankGPT(PromptedRanker):
    """Listwise reranking by permutations (Sun et al. 2023, arXiv 2304.09542).

    Each window's passages are numbered, and the model answers `[2] > [1] > ...`. An answer is repaired as published:
    see `rankers.prompted.answers.permutation`.

    Args:
        window: Passages in a window.
        step: How far the window moves between two questions.
    """

    def __init__(self, window: Count = 20, step: Count = 10, **options: Unpack[AskingOptions]) -> None:
        super().__init__(**options)
        if window < 2 or step > window:
            raise ValueError(f"window ({window}) has to be 2 or more, and at least step ({step})")
        self._window, self._step = window, step

    def ranking(self, query: str, candidates: Sequence[str], faults: Counter[str]) -> Asking:
        """Slide the window from the end to the beginning; a passage's score is minus its place."""
        order = list(range(len(candidates)))
        start = max(0, len(order) - self._window)
        while True:
            shown = order[start : start + self._window]
            answers = yield Questions([_chat(query, [candidates[place] for place in shown])])
            assert answers is not None
            found = permutation(str(answers[0]), len(shown), faults)
            order[start : start + self._window] = [shown[place] for place in found]
            if start == 0:
                break
            start = max(0, start - self._step)
        scores = [0.0] * len(order)
        for place, candidate in enumerate(order):
            scores[candidate] = -float(place)
        return scores


def _chat(query: str, passages: Sequence[str]) -> list[dict[str, str]]:
    """RankGPT's chat: the passages one by one, then what to answer."""
    count = len(passages)
    begin = f"I will provide you with {count} passages, each indicated by number identifier [].\n"
    ask = (
        f"Search Query: {query}.\nRank the {count} passages above based on their relevance to the search query. The "
        "passages should be listed in descending order using identifiers. The most relevant passages should be listed "
        "first. The output format should be [] > [], e.g., [1] > [2]. Only response the ranking results, do not say "
        "any word or explain."
    )
    turns = [("user", f"{begin}Rank the passages based on their relevance to query: {query}.")]
    turns.append(("assistant", "Okay, please provide the passages."))
    for number, passage in enumerate(passages, start=1):
        turns += [("user", f"[{number}] {passage}"), ("assistant", f"Received passage [{number}].")]
    turns.append(("user", ask))
    return [{"role": "system", "content": _SYSTEM}, *({"role": role, "content": text} for role, text in turns)]
