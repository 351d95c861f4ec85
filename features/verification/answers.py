r"""Answers: finds the final answer that a text states, in \boxed{}, after #### or `answer:`, or in a JSON field."""

import re

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*")
_FIELD = re.compile(r"""["'](?:final_)?answer["']\s*:\s*("(?:[^"\\]|\\.)*"|-?[\d.,]+|\[[^\]]*\])""", re.DOTALL)
_MARKED = re.compile(r"^[ \t]*(?:####|A:)[ \t]*(\S.*)$", re.MULTILINE)
_SAID = re.compile(r"(?i:\banswers?\b)(?:\*\*)?(?:[^.:=\n]{0,60}?\b(?:is|are)\b|\s*[:=])(?:\*\*)?:?[ \t]*(\S.*)")
_SENTENCE_END = re.compile(r"\.?(?:\*\*|\s)*(?:\.\s|\n|$)")


def stated_answer(text: str) -> str | None:
    r"""The last answer that a text states as its answer; None if it states none, or an empty one.

    A box has priority, then an `answer` field of complete or incomplete JSON, then a line that begins with `####` or
    `A:`, then words such as `the answer is`.

    >>> stated_answer(r"So it is $\boxed{\frac{1}{2}}$, isn't it?")
    '\\frac{1}{2}'
    >>> stated_answer('{"reasoning": "7 + 8", "answer": "15"}')
    '15'
    >>> stated_answer("7 + 8 = 15. The answer is 15.")
    '15'
    """
    if boxed := last_boxed(text):
        return boxed
    if fields := _FIELD.findall(text):
        value = _unquoted(fields[-1])
        return stated_answer(value) or value or None
    if marked := _MARKED.findall(text):
        return marked[-1].strip()
    said = None
    while (found := _SAID.search(text)) is not None:
        said = text = text[found.start(1) :]
    return _SENTENCE_END.split(said, maxsplit=1)[0].strip().strip("*").strip() or None if said else None


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}` with balanced braces in a text; None if there is none.

    >>> last_boxed(r"\boxed{1} or \boxed{\{2, 3\}}")
    '\\{2, 3\\}'
    """
    for found in reversed(list(_BOXED.finditer(text))):
        start = found.end()
        if start == len(text):
            continue
        if text[start] != "{":
            # Without a brace, TeX takes the next token: \boxed 5.
            return re.match(r"\\[a-zA-Z]+|.", text[start:], re.DOTALL)[0]  # type: ignore[index]
        end = _closing(text, start)
        if end is not None:
            return text[start + 1 : end].strip()
    return None


def _closing(text: str, start: int) -> int | None:
    """The position where the brace at `start` is closed; None if it is not."""
    depth, place = 0, start
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                return place
        place += 1
    return None


def _unquoted(value: str) -> str:
    """A JSON value as text; models do not always escape the backslashes of LaTeX."""
    if not value.startswith('"'):
        return value.strip().rstrip(",")
    return re.sub(r'\\(["\\])', r"\1", value[1:-1]).strip()


def without_thoughts(text: str) -> str:
    """The answer without thoughts; thoughts without an end tag are removed, too.

    >>> without_thoughts("<think>Is it 4? No.</think>It is 5.")
    'It is 5.'
    """
    return text.rpartition("</think>")[2].partition("<think>")[0]
