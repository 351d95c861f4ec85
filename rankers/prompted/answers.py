"""Answers: what a language model wrote, read as its publishers read it; whatever it wrote gives a result."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence

# Some chat templates write the first <think> themselves, so that answers only have its end.
_THOUGHTS = re.compile(r"\A(?:(?!<think>).)*?</think>|<think>.*?(?:</think>|\Z)", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)(</answer>|\Z)", re.DOTALL)
_PASSAGE = re.compile(r"\bpassage\s*[\[(\"'*]*([AB])\b", re.IGNORECASE)
_LETTER = re.compile(r"\b([AB])\b")
_NUMBER = re.compile(r"\[?(\d+)\]?\.?")
_NUMBERED = re.compile(r"\[(\d+)\]|\bcandidate\s+(?:number\s+)?(\d+)\b", re.IGNORECASE)


def permutation(text: str, count: int, faults: Counter[str]) -> list[int]:
    """The order of `count` passages that a text states, with RankGPT's repair (Sun et al. 2023, arXiv 2304.09542).

    Its numbers, counted from 1, without repeated ones and those that no passage has; missing passages follow in the
    order that they had.

    Args:
        text: What the model wrote, such as `[2] > [1]`.
        count: Number of passages.
        faults: Where faults are counted.

    Example:
        >>> permutation("[3] > [1] > [3] > [9]", 4, Counter())
        [2, 0, 1, 3]
    """
    named = [int(number) - 1 for number in re.findall(r"\d{1,9}", _THOUGHTS.sub("", text))]
    inside = [place for place in named if 0 <= place < count]
    distinct = list(dict.fromkeys(inside))
    faults["number of no passage"] += len(inside) < len(named)
    faults["repeated passage"] += len(distinct) < len(inside)
    faults["missing passage"] += 0 < len(distinct) < count
    faults["names no passage"] += not distinct
    return distinct + [place for place in range(count) if place not in distinct]


def preferred(text: str, faults: Counter[str]) -> str | None:
    """The passage that a text prefers, A or B; None if it names none or both.

    Example:
        >>> preferred("Passage B is more relevant.", Counter())
        'B'
    """
    said = _THOUGHTS.sub("", text)
    named = {letter.upper() for letter in _PASSAGE.findall(said)} or set(_LETTER.findall(said))
    faults["names no passage"] += not named
    faults["names both passages"] += len(named) > 1
    return named.pop() if len(named) == 1 else None


def final_answer(text: str) -> str:
    """What stands in <answer>, without thoughts; the whole text if there is no such mark.

    Example:
        >>> final_answer("<think>hm</think><answer> the second </answer>")
        'the second'
    """
    said = _THOUGHTS.sub("", text)
    found = _ANSWER.findall(said)
    return (found[-1][0] if found else said).strip()


def matched(answer: str, candidates: Sequence[str], faults: Counter[str]) -> int | None:
    """The place of the candidate that an answer names; None if it names none.

    By its number, or its text: exactly, then as a part of the answer or the answer as a part of it, then the one number
    of a candidate in the answer, then the one that is most alike.

    Example:
        >>> matched("a blue car", ["the red car", "the blue car"], Counter())
        1
    """
    if not answer:
        faults["names no candidate"] += 1
        return None
    texts = [candidate.strip() for candidate in candidates]
    if answer in texts:
        return texts.index(answer)
    number = _NUMBER.fullmatch(answer) or re.match(r"(?:candidate\s*)?\[(\d+)\]", answer, re.IGNORECASE)
    if number and 1 <= int(number[1][:9]) <= len(texts):
        return int(number[1]) - 1
    lower, said = [text.lower() for text in texts], answer.lower()
    if inside := [place for place, text in enumerate(lower) if text and (said in text or text in said)]:
        return max(inside, key=lambda place: len(texts[place]))
    numbers = {int((one or other)[:9]) for one, other in _NUMBERED.findall(answer)}
    if len(numbers) == 1 and 1 <= min(numbers) <= len(texts):
        return min(numbers) - 1
    faults["nearest candidate taken"] += 1
    alike = [difflib.SequenceMatcher(None, said[:500], text[:500]).ratio() for text in lower]
    return max(range(len(texts)), key=alike.__getitem__)
