r"""Answers: finds the final answer that a text states, in \boxed{}, after #### or `answer:`, or in a JSON field."""

import itertools
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from features.verification.phrases import answer_at, is_definite, is_none, labelled, said_in

# A \b in a JSON text that was not escaped became the character \x08, and some models forget the backslash.
_BOX = r"(?:\\(?:boxed|fbox|framebox)|\x08oxed|(?<![\\a-zA-Z])boxed(?=\{))\s*"
_BOXED, _EMPTY = re.compile(_BOX), re.compile(_BOX + r"\{\s*\}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_TAGGED = re.compile(
    r"<\|begin_of_box\|>(?P<box>.*?)(?:<\|end_of_box\|>|\Z)|(?P<mark><(?P<tag>(?:final_?)?answer|ans|result)>|\[ANSWER\])"
    r"(?P<in>.*?)(?:</(?P=tag)>|\[/ANSWER\]|(?=<(?P=tag)>)|\Z)"
    r"|<(?P<other>final|solution|output)>\s*+(?P<line>[^\n<]{1,60}?)\s*+</(?P=other)>",
    re.DOTALL | re.IGNORECASE,
)
_KEY = r"""["'](?i:(?:final|correct)?[_ ]?answer)["']\s*:\s*"""
_TEXT = (
    r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\\n]|\\.)*'(?=\s*[,}\]])|-?\.?\d(?:[\d.,]*\d)?(?:[eE/]-?\d+)?|\[[^\]]*\]"""
    r"""|(?:null|None|[Tt]rue|[Ff]alse)\b)"""
)
_FIELD = re.compile(_KEY + _TEXT, re.DOTALL)
_REST = re.compile(rf"""(?:\s*,\s*["']\w+["']\s*:\s*{_TEXT})*\s*\}}?""", re.DOTALL)
# Other fields of an object at the end of a text, which count if none is called `answer`; the first of them counts most.
_RESULTS = ["result", "ans", "choice", "option", "value", "final", "solution", "output"]
_RESULT = re.compile(
    rf"""(?P<quote>["'])(?:final_|correct_)?(?P<key>(?i:{"|".join(_RESULTS)}))(?P=quote)\s*:\s*(?P<in>{_TEXT})""",
    re.DOTALL,
)
_ENDS = re.compile(r"[\s}\]`]*\Z")
_MARKED = re.compile(r"^[ \t]*(?P<mark>####|A:)(?:[ \t]*|[ \t]*\n[ \t]*(?=[-−$\\]*\d))(?P<in>\S.*)$", re.MULTILINE)
_HEADING = re.compile(
    r"^[ \t]*+(?:\#{1,6}[ \t]*+)?(?:\*\*|__)?[ \t]*+(?:\d+\.[ \t]*+)?(?:the[ \t]++)?(?:final|correct)?[ \t]*+answer"
    r"[ \t]*+:?(?:\*\*|__)?[ \t]*+:?[ \t]*+\n\s*+(?:[-*][ \t]++)?(?=\S)",
    re.MULTILINE | re.IGNORECASE,
)


class Statement(NamedTuple):
    """An answer that a text states.

    Args:
        place: Position in the text; a later one counts more.
        text: The answer.
        by: What states it: the `answer` field of JSON; a mark, which is a box, a tag, #### or a heading; or words.
    """

    place: int
    text: str
    by: Literal["field", "mark", "words"]


def stated_answer(text: str) -> str | None:
    r"""The last answer that a text states as its answer; None if it states none, or an empty one.

    >>> stated_answer(r"So it is $\boxed{\frac{1}{2}}$, isn't it?")
    '\\frac{1}{2}'
    >>> stated_answer('{"reasoning": "7 + 8", "answer": "15"}')
    '15'
    >>> stated_answer("7 + 8 = 15. The answer is 15, not 16.")
    '15'
    """
    found = statement(text)
    return found.text or None if found else None


def alone(text: str) -> str | None:
    """A text that is a single short line; None for others.

    >>> alone(" 12\\n"), alone("7 + 5\\nis 12")
    ('12', None)
    """
    line = text.strip()
    return line if line and "\n" not in line and len(line) <= _LONGEST_LINE and not _BOXED.search(line) else None


def statement(text: str) -> Statement | None:
    """The last statement of an answer in a text.

    Fields and marks have priority over words such as `the answer is`, unless the words come after a mark and a number
    or formula follows them. What is in other fields of JSON does not count if there is an `answer` field.
    """
    marked = max(_marked(text), default=None)
    if marked is None:
        empty = max(_empty(text), default=None)
        said = next(said_in(text, empty.place if empty else 0), None) or (None if empty else labelled(text))
        return Statement(said.start, said.text, "words") if said else empty or _under_mark(text)
    if marked.by == "field":
        return marked
    for said in said_in(text, marked.place):
        if said.plain and is_definite(said.text):
            # `60`, then `60 of them`, says it once more.
            return marked if said.text.startswith(marked.text) else Statement(said.start, said.text, "words")
    return marked


def _marked(text: str) -> Iterator[Statement]:
    boxes, fields = list(_boxes(text)), list(_FIELD.finditer(text))
    for field in fields:
        if value := _unquoted(field[1]):
            yield Statement(_end_of_object(text, field), stated_answer(value) or value, "field")
    if not fields and (value := _unquoted(_result(text) or "null")):
        yield Statement(len(text), stated_answer(value) or value, "field")
    for place, box in boxes:
        yield Statement(place, last_boxed(box) or box, "mark")
    for found in _TAGGED.finditer(text):
        inside = (found["box"] or found["in"] or found["line"] or "").strip()
        if inside:
            yield Statement(found.end(), stated_answer(inside) or inside, "mark")
    for found in _MARKED.finditer(text):
        if found["mark"] == "A:" or not _is_heading(found["in"], text[found.end() :]):
            yield Statement(found.start("in"), found["in"].strip(), "mark")
    for found in _HEADING.finditer(text):
        if answer := answer_at(text, found.end(), alone=True):
            yield Statement(found.end(), stated_answer(answer) or answer, "mark")


def _empty(text: str) -> Iterator[Statement]:
    """Yield each place where an answer should stand, but does not."""
    for field in _FIELD.finditer(text):
        if not _unquoted(field[1]):
            yield Statement(_end_of_object(text, field), "", "field")
    if (value := _result(text)) and not _unquoted(value):
        yield Statement(len(text), "", "field")
    for found in itertools.chain(_EMPTY.finditer(text), _TAGGED.finditer(text)):
        yield Statement(found.end(), "", "mark")


def _result(text: str) -> str | None:
    """The value of a field such as `result` in the object that ends a text."""
    fields = [found for found in _RESULT.finditer(text) if _ENDS.match(text, _end_of_object(text, found))]
    return min(fields, key=lambda found: _RESULTS.index(found["key"].lower()))["in"] if fields else None


def _end_of_object(text: str, field: re.Match[str]) -> int:
    """Where the object of a field ends: the field counts more than boxes in it, also in fields after it."""
    return rest.end() if (rest := _REST.match(text, field.end())) else field.end()


def _is_heading(line: str, after: str) -> bool:
    """Whether a line after #### is the heading of what follows it, rather than an answer."""
    return bool(after.strip()) and line[:1].isalpha() and not is_none(line)


def _under_mark(text: str) -> Statement | None:
    """The last line after ####, if it may be a heading or an answer, and the text states no other."""
    last = max(_MARKED.finditer(text), key=re.Match.start, default=None)
    return Statement(last.start("in"), last["in"].strip(), "mark") if last else None


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}` with balanced braces in a text; None if there is none.

    An empty box counts only if all boxes are empty, as in two published solutions of MATH.

    >>> last_boxed(r"\boxed{1} or \boxed{\{2, 3\}}")
    '\\{2, 3\\}'
    """
    boxes = list(_boxes(text))
    return boxes[-1][1] if boxes else "" if _EMPTY.search(text) else None


def _boxes(text: str) -> Iterator[tuple[int, str]]:
    """Yield the position and content of each box that is not empty."""
    opened = [found.end() for found in _BOXED.finditer(text)]
    closed = _closed(text, opened[0]) if opened else {}
    for start in opened:
        if start == len(text):
            continue
        if text[start] != "{":
            # Without a brace, TeX takes the next token: \boxed 5.
            yield start, re.match(r"\\[a-zA-Z]+|.", text[start:], re.DOTALL)[0]  # type: ignore[index]
        elif (end := closed.get(start)) is not None and (inside := text[start + 1 : end].strip(" \r\n")):
            yield end, inside


def _closed(text: str, start: int) -> dict[int, int]:
    """The position where each brace from `start` on is closed."""
    opened: list[int] = []
    closed = {}
    for found in _BRACE.finditer(text, start):
        if found[0] == "{":
            opened.append(found.start())
        elif found[0] == "}" and opened:
            closed[opened.pop()] = found.start()
    return closed


def _unquoted(value: str) -> str:
    """A JSON value as text; models do not always escape the backslashes of LaTeX, or write Python instead."""
    if value[0] not in "\"'":
        return "" if value in ("null", "None") else value.strip().rstrip(",")
    return re.sub(r"\\([\"'\\])", r"\1", value[1:-1]).strip()


# Each pair is what comes before and after thoughts; without an end, only the first of them are sure to be thoughts.
_THOUGHTS = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
]
_CLOSED = re.compile(r"<(thinking|thoughts?|reasoning|scratchpad)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_ANALYSIS = re.compile(r"<\|channel\|>analysis<\|message\|>.*?(?:<\|end\|>|(?=<\|start\|>)|\Z)", re.DOTALL)
_FINAL = "<|channel|>final<|message|>"
_BARE_FINAL = "assistantfinal"


def without_thoughts(text: str) -> str:
    """The answer without thoughts; thoughts without an end tag are removed, too.

    >>> without_thoughts("<think>Is it 4? No.</think>It is 5.")
    'It is 5.'
    """
    for start, end in _THOUGHTS:
        text = text.rpartition(end)[2].partition(start)[0]
    if text.startswith("analysis") and _BARE_FINAL in text:
        text = text.rpartition(_BARE_FINAL)[2]  # Harmony, decoded without its special tokens
    return _ANALYSIS.sub("", _CLOSED.sub("", text.rpartition(_FINAL)[2]))


_TURN_END = re.compile(
    r"<\|(?:im_end|eot_id|end_of_text|endoftext|end|return|im_start|user)\|>|</s>|<(?:end_of_turn|eos)>|\[INST\]"
)
_NEXT_QUESTION = re.compile(
    r"^[ \t]*(?:\#+[ \t]*|\*\*|<\|?)?(?:Question|Q|Problem|(?P<turn>Human|User|USER|Instruction))(?:\|?>)?[ \t]*"
    r"(?:\*\*)?:",
    re.MULTILINE,
)
# A heading with a number, or without a colon.
_NEXT_HEADING = re.compile(
    r"""^[ \t]*(?:\#+[ \t]*|\*\*)?(?:
        (?:Question|Q|Problem|Exercise|Example|Task)[ \t]*\#?[ \t]*\d+\b[ \t]*(?:\*\*)?[ \t]*(?:[:.]|$)
        |(?<=\#[ \t])(?:Question|Problem)[ \t]*$
        |(?:Next|Another|New|Following)[ \t]+(?i:question|problem|example|exercise|task)\b
        |Let['’]s[ \t]+(?:try|do|look[ \t]+at|solve|move[ \t]+on[ \t]+to)[ \t]+
        (?:another|the[ \t]+next|one[ \t]+more|a[ \t]+new)\b
        |Input[ \t]*:|Q\.[ \t]|<(?i:question|problem)>
        |(?:问题|题目|問題|質問|Frage|Aufgabe|Pregunta|Problema|Domanda|Вопрос|Задача)[ \t]*[:：]
    )""",
    re.MULTILINE | re.VERBOSE,
)
_NUMBERED = re.compile(r"^[ \t#*]*(?:Question|Answer|Problem|Part|[QA])[ \t]*\#?[ \t]*\d", re.MULTILINE)
_MOST_QUESTIONS, _LONGEST_LINE = 20, 60


def first_answer(text: str) -> str:
    """The text up to where a model that does not stop goes on with a next question.

    >>> first_answer("A: 5\\n\\nQ: What is 3 + 4?\\nA: 7")
    'A: 5\\n\\n'
    """
    for found in _TURN_END.finditer(text):
        if before := text[: found.start()].strip():
            text = before
            break
    for found in itertools.islice(_NEXT_QUESTION.finditer(text), _MOST_QUESTIONS):
        before = text[: found.start()]
        last = before.rstrip().rpartition("\n")[2]
        if before.strip() and (found["turn"] or any(sign.isdigit() for sign in last) or statement(before)):
            text = before
            break
    heading = _NEXT_HEADING.search(text)
    before = text[: heading.start()] if heading else ""
    # A response whose headings have numbers from the first on goes through the parts of its question.
    return before if statement(before) and not _NUMBERED.search(before) else text
