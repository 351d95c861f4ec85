r"""Phrases: the words that announce an answer, such as `the answer is`, in several languages, and where it ends."""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple


class Said(NamedTuple):
    """What a text says after words that announce an answer.

    Args:
        start: Position in the text.
        text: The answer.
        plain: Whether the text says just that this is the answer, not that it would be or how to check it.
    """

    start: int
    text: str
    plain: bool


_LINKS = (
    r"(?:is|are|was)(?P<not>n['’]t)?|equals?|becomes|(?:comes\s+(?:out\s+)?|works\s+out\s+|amounts\s+|adds\s+up\s+)to(?:\s+be)?|"
    r"turns\s+out\s+to\s+be|ends\s+up\s+(?:being|as|at)"
)
_BE = r"would\s+be|will\s+be|should\s+be|must\s+be|has\s+to\s+be"
# Words for `answer`, each with what comes between it and the answer; MGSM's languages and more.
_ABROAD = {
    "答案": r"答案\s*(?:(?:[应應](?:该|該)?|就)?\s*(?:是|[为為]|等于)\s*[:：]?|[:：])",
    "答え": r"答え\s*(?:は[、:：]?|[:：])",
    "답": r"(?:정답|답)\s*(?:은|는|[:：])\s*[:：]?",
    "antwort": r"\bantwort(?:\s+(?!ist\b)\w+){0,5}\s*(?:(?:ist|lautet|beträgt)\b\s*:?|:)",
    "réponse": r"\bréponse(?:\s+(?!est\b)\w+){0,5}\s*(?:est\b\s*:?|:)",
    "respuesta": r"\brespuesta(?:\s+(?!es\b)\w+){0,5}\s*(?:es\b\s*:?|:)",
    "risposta": r"\brisposta(?:\s+(?!è)\w+){0,5}\s*(?:è\b\s*:?|:)",
    "resposta": r"\bresposta(?:\s+(?!é)\w+){0,5}\s*(?:é\b\s*:?|:)",
    "antwoord": r"\bantwoord(?:\s+(?!is\b)\w+){0,5}\s*(?:is\b\s*:?|:)",
    "odpowied": r"\bodpowied(?:ź|zi[ąa])\s*(?:to\b|jest\b|:)",
    "cevap": r"\bcevap\s*:",
    "ответ": r"\bответ\w*\s*(?:[:—–]|-(?=\s)|равен\b|будет\b)",
    "đáp": r"\bđáp\s+(?:án|số)(?:\s+\w+){0,4}?\s*(?:là\b|:)\s*:?",
    "câu trả lời": r"\bcâu\s+trả\s+lời(?:\s+\w+){0,4}?\s*(?:là\b|:)\s*:?",
    "คำตอบ": r"คำตอบ\s*(?:คือ|:)",
    "jibu": r"\bjibu\s*(?:ni\b|:)",
    "উত্তর": r"উত্তর\s*(?:হলো|হল|:)",
    "సమాధానం": r"సమాధానం\s*:?",
    "उत्तर": r"उत्तर\s*(?:है|:)?",
    "الجواب": r"الجواب\s*(?:هو|هي|:)",
    "الإجابة": r"الإجابة\s*(?:هي|هو|:)",
    "ответом": r"\bответом\s+(?:является|будет)\b",
    "відповід": r"\bвідповід\w+\s*(?:[:—–]|-(?=\s))",
    "svar": r"\bsvar(?:et)?\s*(?:är\b|er\b|:)",
    "vastaus": r"\bvastaus\s*(?:on\b|:)",
    "odpověď": r"\bodpověď\s*(?:je\b|:)",
    "jawaban": r"\bjawaban(?:nya)?\s*(?:adalah\b|:)",
    "răspuns": r"\brăspuns(?:ul)?\s*(?:este\b|:)",
    "válasz": r"\bválasz\s*:",
    "απάντηση": r"\bαπάντηση\s*(?:είναι\b|:)",
    "תשובה": r"תשובה\s*(?:היא|:)",
    "选": r"(?:故|答案|应|正确)?选(?:择|项)?\s*(?:是|为)?\s*[:：]?(?=\s*\(?[A-J]\b)",
    "選": r"(?:故|答案|應|正確)?選(?:擇|項)?\s*(?:是|為)?\s*[:：]?(?=\s*\(?[A-J]\b)",
}
_ENGLISH = (
    r"(?<![a-zA-Z\d])[aA](?:nswers?|NSWERS?)\b(?:\*{1,3}|__?)?"
    rf"(?i:[^.:=\n]{{0,60}}?\b(?:{_LINKS}|{_BE})(?!\w)|(?P<aside>\s*\([^()\n]{{1,40}}\)|\s+(?:in|to|for)\s[^.:=\n]{{1,40}})?"
    r"\s*(?P<sign>[:=]>?|[-–—→≈~](?=\s)))"
    r"|(?i:\b(?:correct|right|best)\s+(?:option|choice)\b(?:[^.:=\n]{0,30}?"
    rf"\b(?:{_LINKS.replace('<not>', '<nor>')}|{_BE})(?!\w)|\s*[:=]))"
    r"|(?i:\b(?:giv(?:es?|ing)|get|have|obtain|yield(?:s|ing)?|at|reach|for|to)\s+(?:us\s+)?(?:the|an|our|a)\s+(?:final\s+|correct\s+)?"
    r"answer\s+(?:of\s+)?(?=\**[-−$]?\$?\\?[\d(\\]))"
)
_BACKWARDS = re.compile(
    r"(?<!\bif )(?<!whether )(?:^|(?<=[\s,:*$]))"
    r"(?P<given>[-+−$]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?|\(?[A-E]\)?|\$[^$\n]{1,40}\$|\\\([^\n]{1,40}?\\\))(?:\*\*|\$)?"
    r"\s+(?:is|as)\s+(?:the|our|my)\s+(?:final\s+|correct\s+)?answer\b(?!\s+to\s+(?:a|part|step|sub|the\s+first))"
    r"|(?:\b[Oo]ption\s+|(?:^|[.:,;\n]\s*|\b(?:[Ss]o|[Tt]hus|[Hh]ence|[Tt]herefore),?\s+))(?P<option>\(?[A-J]\)?)\s+is\s+"
    r"(?:the\s+)?(?:correct|right)\b"
    r"|\b(?:I|[Ww]e)(?:\s+would|\s+will|['’](?:d|ll))?\s+(?:choose|select|pick|go\s+with)\s+(?:[Oo]ption\s+)?"
    r"(?P<chosen>\(?[A-J]\)?)(?=[.,;]?\s*(?:\n|$)|[.,;]\s)"
)
# Labels of a last line that has nothing else.
_LABELLED = re.compile(
    r"[ \t>*_\#|✅-]*(?:final[ \t]+)?"
    r"(?:ans(?:wer)?|result|solution|lösung|ergebnis|r[eé]sulta(?:do|t)|risultato|resposta|答)[ \t*_]*"
    r"(?:[:：=|]|\.(?=[ \t]))[ \t*_]*(?P<in>\S.*)",
    re.IGNORECASE,
)
_AFTER = r"(?:\*\*|__)?:?(?P<blank>\s*)(?=\S)"


@cache
def _announced(words: tuple[str, ...]) -> re.Pattern[str]:
    """The pattern for these words; that for all would take longer than everything else."""
    abroad = "".join(f"|(?i:{_ABROAD[word]})" for word in words)
    return re.compile(rf"(?:{_ENGLISH}{abroad}){_AFTER}")


_UNDECIDED = re.compile(
    r"""\b(?:answers?|it|this|that|problem|question|value|number|amount|price|total|result)\s+(?:is\s+)?
    (?P<text>(?:can\s?not|can['’]t|could\s+not)\s+be\s+(?:uniquely\s+|exactly\s+|precisely\s+)?
    (?:determined|found|known|answered|calculated|computed|solved|given|decided)
    |(?:unknown|undetermined|impossible\s+to\s+(?:determine|say|tell|know|find|calculate|answer|solve)|indeterminable)\b)
    |\b(?P<told>(?:we|i|one)(?:\s+(?:can\s?not|can['’]t)|(?:\s+a(?:re|m)|['’](?:re|m))\s+(?:unable|not\s+able)\s+to)\s+
    (?:determine|know|answer|say|tell|find|calculate|compute|solve|give)
    |(?:not\s+(?:have\s+)?(?:enough|sufficient)|insufficient)\s+(?:information|data)\b
    |there\s+is\s+no\s+(?:answer|solution)\b|answer\s+depends\s+on\b|not\s+determinable\b)
    |(?P<lacking>n['’]t\s+(?:have\s+)?(?:enough|sufficient)\s+(?:information|data)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_DIGIT = re.compile(r"\d")
_FROM = re.compile(r"(?:\s+(?:from|with|given|by|using|based)\b[^.\n]*)?")
_PLAINLY = re.compile(
    r"answers?(?:\*\*)?(?:\s+(?:to|for|of|the|this|question|problem|therefore|thus|then|actually)){0,6}\s+(?:is|are)\b",
    re.IGNORECASE,
)
_BEGINS_LINE = re.compile(r"[\s#*_>|✅\d.-]*(?:the\s+)?(?:final|correct)?\s*", re.IGNORECASE)
_RARE = (
    *("not be ", "t be ", "unknown", "determin", "impossible", "enough", "sufficient", "cannot", "can't", "unable"),
    *("not able", "is no ", "depends"),
)
_NO_ANSWER = re.compile(
    r"""(?:can\s?not|can['’]t|could\s+not)\s+(?:be|say|tell|know|determine|find|answer|calculate|compute|solve|give)|insufficient
    |(?:not|n['’]t)\s+(?:have\s+)?(?:enough|sufficient)|(?:unable|not\s+able)\s+to
    |impossible|un(?:known|determined|decidable|clear|defined|solvable)|indetermina|depends?\b
    |not\s+(?:possible|given|known|defined|determinable|answerable|solvable)
    |more\s+(?:information|data|details)|(?:information|data)\s+(?:is|are)\s+(?:needed|required)|^\s*(?:\?+|[-–—])\s*$
    |no\s+(?:answer|solution|such|valid|idea)|none\b|n/a\b|missing|n(?:o|['’])t\s+(?:know|sure|sufficient|a\s+number)
    |indétermin|inconnu|desconocid|indetermin|no\s+se\s+puede|unbekannt|nicht\s+\w*bestimm|неизвестн|невозможно|нельзя
    |无法|無法|不能|未知|不确定|不明|わか(?:りません|らない)|알\s*수\s*없""",
    re.IGNORECASE | re.VERBOSE,
)
_FILLERS = re.compile(
    r"""(?:(?:approximately|approx\.|about|roughly|around|nearly|exactly|simply|just|therefore|thus|hence|then|indeed|
    actually|clearly|probably|likely|definitely|only|still|now|always|donc|daher|also|equal\s+to|given\s+by|
    (?:found|determined|calculated|estimated|known)\s+to\s+be|(?:a|the)\s+(?:total|sum|number|value)(?:\s+of)?(?=\s+[-−$\\*]*\d)|約|约|大约|约为|etwa|environ|aproximadamente|примерно)\b[\s,:]*
    |,\s*(?=(?:therefore|thus|hence|then)\b)|[≈~:→⇒}]\s*|=\s*|-?->\s*)+""",
    re.IGNORECASE | re.VERBOSE,
)
_DISPLAY = re.compile(r"\\\[(?P<bracket>.*?)\\\]|\$\$(?P<dollars>.*?)\$\$|\\\((?P<round>.*?)\\\)", re.DOTALL)
_SENTENCE_END = re.compile(r"\.?(?:\*\*|\s)*(?:\.\s|(?<![\d)}])!\s|\n|[。．！]|$)")
_REASON = re.compile(
    r"(?<=\S)(?:\s*[,;]\s*(?:(?:and\s+)?(?:not|because|since|so|which|but|as|rather|we|you|that\s+is)\b|i\.e\.)"
    r"|\s+(?:(?:and\s+)?not|rather\s+than|instead\s+of|because|since)\s"
    r"|\s*\((?:not|because|since|as|i\.e\.)\s|\s[-—–]\s*(?:that\s+is|because|since|as|not)\b).*",
    re.IGNORECASE | re.DOTALL,
)
# 10 + 2, which is 12
_WHICH = re.compile(
    r"(?P<sum>[\d)}%]\s*(?:[-+−–*/×÷·⋅]|\\times|\\cdot)[^,;]{1,40}?),\s*which\s+(?:is|equals|gives|makes|comes\s+to)\s+(?=[-−$\\]*\d)"
)
_CONTRAST = re.compile(r"not\s+[^,;]{1,40}?\s*(?:[,;]\s*|\s)(?:but(?:\s+rather)?|it(?:['’]s|\s+is))\s+", re.IGNORECASE)
_PARTICLES = re.compile(r"(?:\s*(?:です|だ|である|となります|입니다|이다|है|हैं|৷|।))+\s*$")
_TAGS = re.compile(r"</?(?:b|strong|i|em|u|mark|code)>")
_DEFINITE = re.compile(r"[\s*({\[]*[-+−–±]?\s*(?:[\d.$€£¥√π∞½⅓¼¾]|\\(?!text)[a-zA-Z(\[])")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_LONGEST, _LONGEST_LINE = 2000, 60
_MOST_WORDS = 3


def said_in(text: str, start: int = 0) -> Iterator[Said]:
    """Yield what a text says after each announcement from a position on, the last first."""
    lower = text.lower()
    pattern = _announced(tuple(word for word in _ABROAD if word in lower))
    for found in _UNDECIDED.finditer(text, start) if any(word in lower for word in _RARE) else ():
        if not _DIGIT.search(text, _FROM.match(text, found.end()).end()):  # type: ignore[union-attr]
            yield Said(found.start(), found["text"] or found["told"] or found["lacking"], True)
    announced = list(pattern.finditer(text, start))
    if any(word in lower for word in (" answer", "correct", "right", "choose", "select", "pick", "go with")):
        announced += _BACKWARDS.finditer(text, start)
    for found in sorted(announced, key=re.Match.start, reverse=True):
        if found.re is _BACKWARDS:
            yield Said(found.start(), found["given"] or found["option"] or found["chosen"], False)
            continue
        rest = f"not {text[found.end() :][:_LONGEST]}" if found["not"] or found["nor"] else None
        given = answer_at(text, found.end(), alone="\n" in found["blank"]) if rest is None else answer_at(rest, 0)
        if given and not (given.lower().startswith("not ") and not is_none(given)):
            line = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
            begins, sign = _BEGINS_LINE.fullmatch(line), found["sign"]
            if sign and not begins and (found["aside"] or sign[0] not in ":="):
                continue
            plain = begins if sign else _PLAINLY.match(found[0])
            yield Said(found.end(), given, bool(plain) and not line.lower().endswith(("this ", "that ")))


def labelled(text: str) -> Said | None:
    """What the last line of a text gives after a label such as `Result:`, if it is a number, formula or option."""
    text = text.rstrip()
    found = _LABELLED.match(text, text.rfind("\n") + 1)
    given = answer_at(text.removesuffix("|"), found.start("in")) if found else ""
    return Said(found.start("in"), given, False) if found and (is_definite(given) or len(given) == 1) else None


def answer_at(text: str, start: int, *, alone: bool = False) -> str:
    """The answer that begins at a position: the formula there, or the rest of the sentence without its reason.

    Args:
        text: The text.
        start: Where the answer begins.
        alone: Whether the answer begins a line, where it counts only if the line has nothing else: text that goes on
            is no answer, unless it is a number or a formula.
    """
    text = text[start : start + _LONGEST]
    for opening in (_FILLERS, _CONTRAST):
        text = text[found.end() :] if (found := opening.match(text)) else text
    if shown := _DISPLAY.match(text):
        rest = _SENTENCE_END.split(text[shown.end() :], maxsplit=1)[0]
        return shown[0] if alone or not rest.strip(" .*,") else _cut(text)
    given = _cut(text)
    if alone:
        line, _, rest = text.partition("\n")
        last = not rest.strip() or rest.startswith("\n")
        if not last or len(line) > _LONGEST_LINE or (rest.strip() and not is_definite(given)):
            return ""
    return given


def is_definite(answer: str) -> bool:
    """Whether an answer is a number or formula with a few words at most, rather than a sentence.

    >>> is_definite("$12$ apples"), is_definite("the sum of 3 and 5")
    (True, False)
    """
    few = len(answer) <= _LONGEST_LINE and len(_WORD.findall(answer)) <= _MOST_WORDS and answer.count("=") <= 1
    return few and bool(_DEFINITE.match(answer))


def is_none(answer: str) -> bool:
    """Whether an answer says that there is none, such as `cannot be determined`."""
    return bool(_NO_ANSWER.search(answer))


def _cut(text: str) -> str:
    sentence = _WHICH.sub(r"\g<sum> = ", _SENTENCE_END.split(text, maxsplit=1)[0])
    cut = _PARTICLES.sub("", _REASON.sub("", _TAGS.sub("", sentence))).strip()
    return (cut[:-1] if cut.endswith("*!") else cut).strip("*").strip()
