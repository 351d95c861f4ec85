"""PRP: a language model says which of two passages is more relevant, for all pairs or as many as sorting needs."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from itertools import combinations
from typing import Literal, Unpack

from rankers.prompted.answers import preferred
from rankers.prompted.prompted_ranker import Answers, Asking, AskingOptions, PromptedRanker, Questions
from registry import RANKERS, ConfigError
from registry.ranges import Count

_ANSWERS = ("Passage A", "Passage B")
_Comparing = Generator[Questions, Answers, list[float]]
_Sorting = Generator[Questions, Answers, None]


@RANKERS.register("prp")
class PRP(PromptedRanker):
    """Pairwise ranking prompting (Qin et al. 2023, arXiv 2306.17563).

    Each pair is asked in both orders. If both answers agree, that passage gets 1, else both get one half. Passages with
    equal sums keep their first order, as published.

    Args:
        method: `allpair`, a passage's score is the sum over all others; `sorting`, heapsort, in which the passages'
            first order decides if the two answers do not agree; `sliding`, `passes` passes from the last passages to
            the first, in each of which the better of two neighbours moves up.
        passes: Number of passes of `sliding`; 10 in the paper, enough for the first ten places.
        by: `likelihood`, the likelier of the two answers counts; `text`, what the model writes; `auto` is `likelihood`
            if the generator tells it.
    """

    def __init__(
        self,
        method: Literal["allpair", "sorting", "sliding"] = "allpair",
        passes: Count = 10,
        by: Literal["auto", "likelihood", "text"] = "auto",
        **options: Unpack[AskingOptions],
    ) -> None:
        super().__init__(**options)
        self._method, self._passes, self._by = method, passes, by

    def ranking(self, query: str, candidates: Sequence[str], faults: Counter[str]) -> Asking:
        """Score the candidates by their comparisons, or by minus their place in the sorted order."""

        def compared(pairs: Sequence[tuple[int, int]]) -> _Comparing:
            return self._compared(query, candidates, pairs, faults)

        if self._method == "allpair":
            pairs, scores = list(combinations(range(len(candidates)), 2)), [0.0] * len(candidates)
            for (one, other), won in zip(pairs, (yield from compared(pairs)), strict=True):
                scores[one] += won
                scores[other] += 1 - won
            # Sums are multiples of one half, so that this decides between equal ones alone.
            return [score - place / (2 * len(scores)) for place, score in enumerate(scores)]
        order = list(range(len(candidates)))
        yield from self._sorted(order, compared) if self._method == "sorting" else self._slid(order, compared)
        scores = [0.0] * len(order)
        for place, candidate in enumerate(order):
            scores[candidate] = -float(place)
        return scores

    def _compared(
        self, query: str, candidates: Sequence[str], pairs: Sequence[tuple[int, int]], faults: Counter[str]
    ) -> _Comparing:
        """For each pair: 1 if the first passage wins in both orders, 0 if the second does, else one half."""
        chats = [
            _chat(query, candidates[first], candidates[second])
            for one, other in pairs
            for first, second in ((one, other), (other, one))
        ]
        found = None
        if self._by != "text":
            found = yield Questions(chats, _ANSWERS)
            if found is None and self._by == "likelihood":
                cure = "ranker.by=text, or the generator transformers"
                raise ConfigError("ranker.by", "this generator does not tell how likely an answer is.", cure=cure)
        if found is None:
            found = yield Questions(chats)
        assert found is not None
        votes = [preferred(each, faults) if isinstance(each, str) else _likelier(each, faults) for each in found]
        won = {("A", "B"): 1.0, ("B", "A"): 0.0}
        return [won.get((votes[row], votes[row + 1]), 0.5) for row in range(0, len(votes), 2)]  # type: ignore[arg-type]

    def _slid(self, order: list[int], compared: Callable[[list[tuple[int, int]]], _Comparing]) -> _Sorting:
        """Bubble the best passages up, pass by pass."""
        for done in range(min(self._passes, len(order) - 1)):
            for place in range(len(order) - 2, done - 1, -1):
                (won,) = yield from compared([(order[place], order[place + 1])])
                if won == 0:
                    order[place], order[place + 1] = order[place + 1], order[place]

    def _sorted(self, order: list[int], compared: Callable[[list[tuple[int, int]]], _Comparing]) -> _Sorting:
        """Heapsort: the worst passage of the heap is at its root, and goes to the end of what is left."""

        def is_worse(one: int, other: int) -> Generator[Questions, Answers, bool]:
            (won,) = yield from compared([(one, other)])
            return won == 0 or (won == 0.5 and one > other)

        def sift(root: int, end: int) -> _Sorting:
            while (child := 2 * root + 1) < end:
                if child + 1 < end and (yield from is_worse(order[child + 1], order[child])):
                    child += 1
                if not (yield from is_worse(order[child], order[root])):
                    return
                order[root], order[child] = order[child], order[root]
                root = child

        order.reverse()
        for root in range(len(order) // 2 - 1, -1, -1):
            yield from sift(root, len(order))
        for end in range(len(order) - 1, 0, -1):
            order[0], order[end] = order[end], order[0]
            yield from sift(0, end)


def _likelier(found: Sequence[float], faults: Counter[str]) -> str | None:
    """The likelier of A and B; None if both are equally likely."""
    faults["equally likely"] += found[0] == found[1]
    return None if found[0] == found[1] else "A" if found[0] > found[1] else "B"


def _chat(query: str, first: str, second: str) -> list[dict[str, str]]:
    """PRP's prompt."""
    text = (
        f'Given a query "{query}", which of the following two passages is more relevant to the query?\n\n'
        f"Passage A: {first}\n\nPassage B: {second}\n\nOutput Passage A or Passage B:"
    )
    return [{"role": "user", "content": text}]
