r"""Mathematics: answers in LaTeX, plain text and Unicode as one notation, and which of them are equal.

math-verify parses and compares; what it takes for equal or cannot read is mended here: see `latex` and `equal`.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from math_verify.grader import unwrap_fcs

# math-verify's own timeouts use SIGALRM and count a timeout as a wrong answer; here the worker is killed instead.
_ALONE: Any = {"parsing_timeout": None}

_FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
    "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
}  # fmt: skip
_SIGNS = {
    **dict.fromkeys("−–—‒‐﹣－", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003", " "),
    "×": r"\times ", "÷": "/", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "∞": r"\infty ", "π": r"\pi ", "°": r"^\circ ",
    "º": r"^\circ ",
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "±": r"\pm ", "…": "...", "ℝ": r"\mathbb{R}", "∣": "|", "∧": r"\land ", "∨": r"\lor ",
    # What became of LaTeX's \a, \b, \f and \v in a JSON text that was not escaped.
    "\a": r"\a", "\b": r"\b", "\f": r"\f", "\v": r"\v",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "’": "'", "′": "'", "∛": r"\sqrt[3]",
    **{chr(0xFF00 + place): chr(0x20 + place) for place in range(1, 0x5F) if place != 0x0D},  # full width
    **{sign: rf"\frac{{{above}}}{{{below}}}" for sign, (above, below) in _FRACTIONS.items()},
}  # fmt: skip
_TRANSLATED = str.maketrans(_SIGNS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_DOTS = r"(?:\\[lc]?dots\b|\.\.\.)"
_UNITS = (
    r"(?:kWh|cm|mm|km|kg|mg|lbs?|oz|ft|inch(?:es)?|in|mi|yd|sec|min|hrs?|mph|km/h|m/s|USD|EUR|GBP|dollars?|cents?|euros?|"
    r"pounds?|degrees?|deg|radians?|rad|units?|square|cubic|sq\.?|per|percent|[a-z]+(?:meters?|metres?|grams?|liters?)|"
    r"meters?|metres?|grams?|liters?|litres?|feet|foot|yards?|miles?|seconds?|minutes?|hours?|days?|weeks?|months?|years?)"
)
# Words after a number which are no unit: they multiply it, or go on with a formula.
_NO_UNIT = (
    r"(?:hundred|thousand|[mb]illi\w+|milli?on\w*|trillion|dozens?|mil|mille|tausend|half|halves|thirds?|quarters?|fourths?|"
    r"[a-z]+ths|and|or|to|over|times|plus|minus|mod|base|choose|squared|cubed|factorial|тысяч\w*|миллион\w*|"
    r"sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|theta|alpha|beta|inf|infty|infinity|i+)"
)
_EAST = r"\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af"
_WORDS = r"\\(?:text|mathrm)\s*\{[^{}]*\}"
_FUNCTIONS = r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|ln|log|exp"


def _reversed_brackets(found: re.Match[str]) -> str:
    """An interval with its open ends in French notation, as ]1,2], with round brackets."""
    if (found["first"], found["last"]) == ("[", "]"):
        return found[0]
    return f"{'(' if found['first'] == ']' else '['}{found['in']}{')' if found['last'] == '[' else ']'}"


def _repeated_with_dots(found: re.Match[str]) -> str:
    r"""A repeating decimal with dots above the first and last of the digits that repeat."""
    again = re.sub(r"\D", "", found["again"])
    return rf"{found['whole']}.{found['once']}\overline{{{again}}}"


def _whole(found: re.Match[str]) -> str:
    """A decimal times a power of ten as a whole number, if it is one, because math-verify would round it."""
    zeros = int(found["power"]) - len(found["part"])
    return found[0] if zeros < 0 else str(int(found["whole"] + found["part"] + "0" * zeros))


def _percent(found: re.Match[str]) -> str:
    whole, above, below = (int(found[name]) for name in ("whole", "above", "below"))
    return rf"\frac{{{whole * below + above}}}{{{below}}}\%"


def _repeated(found: re.Match[str]) -> str:
    r"""A repeating decimal as a fraction: 0.1\overline{6} is (16 - 1) / 90."""
    whole, once, again = found["whole"] or "0", found["once"], found["again"]
    numerator = int(whole + once + again) - int(whole + once)
    return rf"\frac{{{numerator}}}{{{10 ** len(once) * (10 ** len(again) - 1)}}}"


def _with_rows(found: re.Match[str]) -> str:
    """A matrix whose rows end with one backslash, as in a JSON text that was not escaped."""
    return found[0] if r"\\" in found["in"] else re.sub(r"\\(?=[\s\d-])", r"\\\\", found[0])


_Written = str | Callable[[re.Match[str]], str]
_NOTATIONS: list[tuple[re.Pattern[str], _Written]] = [
    (re.compile(r"(?<!\\)\\\\(?=(?:[dt]?frac|sqrt|text|pi|cdot|times|left|right|infty|cup|le|ge|pm|circ|boxed)(?![a-zA-Z]))"),
     r"\\"),
    (re.compile(r"\\begin\{[pbvBV]?matrix\}(?P<in>.*?)\\end", re.DOTALL), _with_rows),
    (re.compile(
        r"^(?:\\(?:textbf|text|mathrm|mathbf)\s*\{\s*\(?[A-E](?:\)|[.:])\s*\}(?:\s|\\[,;: ]|\\q?quad|~)*|\(?[A-E]\)\s+)"
        r"(?=[-\d\\$])"
    ), ""),
    (re.compile(r"^(?:USD|EUR|GBP|INR|Rs\.?)\s*(?=\d)"), ""),
    (re.compile(r"\\text\s*\{\s*(hundred|thousand|(?:m|b|tr)illion)\b"), r"\1\\text{"),
    *((re.compile(rf"(?<=\d)(?:\s|\\[,;: ]|~)*{word}\b(?:\\text\s*\{{\s*\}})?", re.IGNORECASE),
       rf" \\times 10^{{{power}}}")
      for word, power in (("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12))),
    (re.compile(r"(?<=\d)\s*[x✕]\s*(?=10\s*\^)"), r" \\times "),
    (re.compile(r"^([-+]?\d{1,3}(?:\.\d{3})+),(\d{1,2})$"), lambda found: f"{found[1].replace('.', '')}.{found[2]}"),
    (re.compile(r"\\colon\b"), ":"),
    (re.compile(r"(?<=[\[(])([^\[\](),;]+);([^\[\](),;]+)(?=[\])])"), r"\1,\2"),
    (re.compile(r"(?<![\\a-zA-Z])log_(\{\w+\}|\w)(?=\s*[({\d])"), r"\\log_\1"),
    (re.compile(r"(?<=\d)\s*m[²³]$|(?<=\d)\s*[€£¥₹¢]$|(?<=\d)\s+[LNJWV]$"), ""),
    (re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+"), lambda found: f"^{{{found[0].translate(_RAISED)}}}"),
    (re.compile(r"\\(?:text)?color\s*\{[^{}]*\}|\\(?:phantom|hspace|vspace)\s*\{[^{}]*\}|\\(?:displaystyle|bf|rm)\b"),
     ""),
    (re.compile(r"\\(?:mathrm|operatorname|text|textit|mathit|textrm)\s*\{\s*([ei])\s*\}"), r"\1"),
    (re.compile(r"\\(?:text|textbf|mathbf|mathrm|boldsymbol)\s*\{\s*([-+]?[\d.,/]+)\s*\}"), r"\1"),
    (re.compile(r"\\(?:mathrm|operatorname|text|textrm)\s*\{\s*(" + _FUNCTIONS + r")\s*\}"), r"\\\1 "),
    (re.compile(r"(?<![\\a-zA-Z])(" + _FUNCTIONS + r")(?=\s*[(\d^]|\s+[a-z]\b)"), r"\\\1 "),
    (re.compile(r"\\log\s*_\s*\{?e\}?(?![a-z])"), r"\\ln"),
    (re.compile(r"^\\text\s*\{\s*(?:the\s+)?(?:final\s+)?answer(?:\s+is\b|\s*:)\s*([^{}]*)\}", re.IGNORECASE), r"\1"),
    (re.compile(r"^\\text\s*\{[^{}]*\}\s*=\s*|^\s*=\s*"), ""),
    (re.compile(r"^\\text\s*\{\s*([-+]?[\d.,/]*\d)\s+([^{}\d]+)\}$"), r"\1 \2"),
    (re.compile(r"^([-+]?[\d.,]+)\s*=\s*([a-zA-Z])$"), r"\2=\1"),
    (re.compile(r"\\(?:big|Big|bigg|Bigg)[lrm]?(?=\s*(?:[()\[\]|]|\\[{}|]))"), ""),
    (re.compile(r"\\bigcup\b|(?<=[)\]])\s*U\s*(?=[(\[])"), r"\\cup "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\\{(?:\s|\\[,;: ])*\\\}"), r"\\emptyset"),
    (re.compile(r"\\\\\[\d*\.?\d+[a-z]{2}\]"), r"\\\\"),
    (re.compile(r"(?P<first>[\[\]])(?P<in>[^\[\](),;]+[,;][^\[\](),;]+)(?P<last>[\[\]])"), _reversed_brackets),
    (re.compile(r"^(?:\\text\s*\{)?\s*all\s+reals?(?:\s+numbers?)?\s*\}?$", re.IGNORECASE), r"\\mathbb{R}"),
    (re.compile(r"(?<=\\mathbb\{R\})\s*(?:-|\\backslash)\s*(?=\\\{)"), r"\\setminus "),
    (re.compile(r"\\imath\b"), "i"),
    (re.compile(r"(?<=[\d}])\.$|\s*\\pmod\s*\{[^{}]*\}$"), ""),
    (re.compile(r"\\(?:large|Large|LARGE|huge|small|normalsize)\b"), ""),
    (re.compile(r"^\\(?:underline|bm|pmb|mathbf|boldsymbol)\s*\{([^{}]*)\}$"), r"\1"),
    (re.compile(r"(?<=\^\\circ)\s*(?:\\(?:text|mathrm)\s*\{\s*)?[CF]\}?$"), ""),
    (re.compile(r"\^-(\d+)"), r"^{-\1}"),
    (re.compile(r"^((?:\\text\s*\{)?[a-zA-Z]+)\.(\}?)$"), r"\1\2"),
    (re.compile(r"^\\text\s*\{\s*([A-Z](?:\s*,\s*[A-Z])+)\s*\}$"), r"\1"),
    (re.compile(r"(?<=\d)(?:\s|\\[,;: ]|\\cdot|\*)+i$"), "i"),
    (re.compile(r"\\(?:nicefrac|sfrac|cfrac|tfrac|dfrac)\b"), r"\\frac"),
    (re.compile(r"\\sqrt\s*\[(\w+)\]\s*(\d|[a-z]\b)"), r"\\sqrt[\1]{\2}"),
    (re.compile(r"(?<![\\a-zA-Z])cbrt\s*\(([^()]*)\)"), r"\\sqrt[3]{\1}"),
    (re.compile(r"(?<=\d)\s*(?:\\degree\b|\^\s*\{?\s*(?:\\text\s*\{\s*)?o\}*$)"), r"^\\circ"),
    (re.compile(r"^(?:\{\s*\})?(?:_|\^)\s*\{?(\d+)\}?\s*C\s*_\s*\{?(\d+)\}?$"), r"\\binom{\1}{\2}"),
    (re.compile(r"^C\s*\((\d+)\s*,\s*(\d+)\)$"), r"\\binom{\1}{\2}"),
    (re.compile(r"^(\d+)\s*(?:\\text\s*\{\s*to\s*\}|\bto\b)\s*(\d+)$"), r"\1:\2"),
    (re.compile(r"\\varnothing\b|\\empty\b"), r"\\emptyset"),
    (re.compile(r"\\lbrace\b"), r"\\{"),
    (re.compile(r"\\rbrace\b"), r"\\}"),
    (re.compile(r"^\s*(?:\\approx|≈|\\thickapprox|\\simeq)\s*"), ""),
    (re.compile(r"^\\text\s*\{\s*\\?\$\s*\}|^(?:US|A|C|HK)\s*(?=\\?\$)"), ""),
    (re.compile(r"^([-+]?)\s*(?:[€£¥₹]|\\(?:pounds|euro)\b)\s*(?=[-+\d.])"), r"\1"),
    (re.compile(r"^(?:negative|minus)\s+(?=\d|\\|infinity)", re.IGNORECASE), "-"),
    (re.compile(r"\\text\s*\{\s*((?:positive\s+|negative\s+)?infinity)\s*\}", re.IGNORECASE), r"\1"),
    (re.compile(r"(?<![\\a-zA-Z])(?:positive\s+)?(?:infinity|inf)\b", re.IGNORECASE), r"\\infty"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"√\s*(\([^()]*\)|\{[^{}]*\}|\w+)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])sqrt\s*(\([^()]*\)|\{[^{}]*\}|\d+|[a-z]\b)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi"),
    (re.compile(r"(?<=\d)(?:\{\\?,\}|\\text\s*\{,\}|,\\!|\\[,!;: ]|\\thinspace\s*|['_~])(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<!\\)~"), " "),
    (re.compile(r"^(?=[^,]*$)(.*)(?<!\\);(?=.*[\])]$)"), r"\1,"),
    (re.compile(r"(?P<whole>\d+)\s*\\frac\s*\{?(?P<above>\d+)\}?\s*\{?(?P<below>\d+)\}?\s*\\?%"), _percent),
    (re.compile(r"(?<=\^)\{?0?\.5\}?(?!\d)"), r"{1/2}"),
    (re.compile(r"^(?P<whole>\d*)\.(?P<once>\d*)\((?P<again>\d+)\)$"), _repeated),
    (re.compile(
        r"(?P<whole>\d*)\.(?P<once>\d*)(?P<again>\\dot\s*\{?\d\}?(?:\d|\\dot\s*\{?\d\}?)*\\dot\s*\{?\d\}?)"
    ), _repeated_with_dots),
    (re.compile(r"(?<![\d.,/^_{}])\d{1,3}(?: \d{3})+(?![\d/]| *\\?/)"), lambda found: found[0].replace(" ", "")),
    (re.compile(r"(?<![\d./^_{}])(\d+)\s+(\d+)/(\d+)(?![\d/])"), r"\1\\frac{\2}{\3}"),
    (re.compile(r"(?<![\w.}])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w.])"), r"\1 \\times 10^{\2}"),
    (re.compile(r"(?P<whole>\d+)\.(?P<part>\d+)\s*\\(?:times|cdot)\s*10\s*\^\s*\{?(?P<power>\d{1,3})(?!\d)\}?"),
     _whole),
    (re.compile(r"(?P<whole>\d*)\.(?P<once>\d*)\\(?:overline|bar|overbar)\s*\{?(?P<again>\d+)\}?"), _repeated),
    (re.compile(r"(?P<whole>\d*)\.(?P<once>\d*)\\dot\s*\{?(?P<again>\d)\}?(?!\d*\\dot)"), _repeated),
    (re.compile(rf"(?P<whole>\d*)\.(?P<once>\d*?)(?P<again>\d{{1,6}}?)(?P=again){{2,}}{_DOTS}"), _repeated),
    (re.compile(rf"(?P<whole>\d*)\.(?P<once>\d*?)(?P<again>\d{{2,6}})(?P=again){_DOTS}"), _repeated),
    (re.compile(rf"(?<=\d){_DOTS}"), ""),
    (re.compile(r"(?<=\d)\s*\((?:[a-zA-Z]{2,}[ ,-]*)+\)$"), ""),
    (re.compile(rf"(?<=\d)\s*\\frac\s*\{{\s*{_WORDS}\s*\}}\s*\{{\s*{_WORDS}\s*\}}$"), ""),
    (re.compile(
        rf"(?:(?<=[\d}}])|(?<=\\pi))(?:\s|\\[,;: ])+(?:{_UNITS}\b(?:\s*\^\s*\{{?[23]\}}?)?\s*\.?\s*)+$", re.IGNORECASE
    ), ""),
    (re.compile(
        rf"^([-+]?(?:\d[\d,]*)?\.?\d+)\s+(?!{_NO_UNIT}\b)[^\W\d_]{{2,}}(?:[ -](?!{_NO_UNIT}\b)[^\W\d_]+){{0,5}}\.?$",
        re.IGNORECASE,
    ), r"\1"),
    (re.compile(rf"^([-+]?\d[\d,.]*)\s*(?![千百十万萬億亿兆천백만억분割倍])[{_EAST}]{{1,5}}$"), r"\1"),
]  # fmt: skip
# Quotes and dollars on both sides, or a dollar on one; not \\$, and not the primes of a derivative.
_AROUND = re.compile(
    r"^\s*(?P<mark>[\"'$*`]*)\s*(?P<in>.*?)\s*(?<!\\)(?:(?P=mark)|\$*)\s*(?:(?<=[\d)}\]])\.)?\s*$", re.DOTALL
)
_ONE_FORMULA = re.compile(r"^\s*(\$[^$]*\$)\s*(?:\((?:[a-zA-Z]{2,}[ ,-]*)+\))?\s*\.?\s*$")
# The tab of a \text in a JSON text that was not escaped.
_TABBED = re.compile(r"\t(?=ext|imes|heta|an\b|frac|o\b|au\b)")
_DISPLAYED = re.compile(r"^\s*\\[\[(](?P<in>.*)\\[\])]\s*\.?\s*$", re.DOTALL)
_BASE = re.compile(
    r"^\W*(?:\\text\s*\{\s*)?(?P<digits>[\dA-Z]+)\s*\}?\)?(?:\\[,;! ])?\s*"
    r"(?:_|\(?(?:\\text\s*\{)?\s*\(?(?:in\s+)?base\s)"
    r"\s*\{?\s*(?:\\text\s*\{)?\s*\(?(?P<base>\d+|[a-z]+)\W*$"
)
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
          "eleven": 11, "twelve": 12, "sixteen": 16}  # fmt: skip
_RELATION = re.compile(r"[<>]|\\(?:[lg]e?q?|n(?:e|eq)|leqslant|geqslant)(?![a-zA-Z])")
_OR = re.compile(r"\\text\s*\{\s*,?\s*or\s*\}|\bor\b|\\lor\b|\\vee\b", re.IGNORECASE)
_BETWEEN = re.compile(r"(?<=[)\]])\s*(?:\\text\s*\{\s*(?:or|and)\s*\}|\bor\b|\band\b|,)\s*(?=[(\[])")
_SIDE = re.compile(r"\\(?:left|right)(?![a-z])|^\\text\s*\{\s*(?:for\s+)?all\s*\}\s*")
_NAMED_POINT = re.compile(r"^[A-Z]\s*=?\s*(?=\()")
_AND = re.compile(r"\\text\s*\{\s*,?\s*and\s*\}|\band\b|\\land\b|\\wedge\b|,", re.IGNORECASE)
_BUILDER = re.compile(
    r"^\s*\\?\{\s*[a-zA-Z]\s*(?:\\in\s*\\?(?:mathbb)?\s*\{?R\}?\s*)?(?:\\mid|\\vert|\||:|\\colon)\s*(?P<in>.*?)\s*\\?\}\s*$",
    re.DOTALL,
)
_MEMBER = re.compile(r"^\s*[a-zA-Z]\s*\\in\b")
_CLOCK = re.compile(
    r"^(?P<hours>\d{1,2})(?:\\[!,])?:(?:\\[!,])?(?P<minutes>\d\d)(?:\s|\\[,; ]|~)*"
    r"(?:\\(?:text|mathrm)\s*\{\s*)?(?:(?P<half>[ap])\.?\s?m\.?)?\s*\}?$",
    re.IGNORECASE,
)
# Letters in an order, such as ABC, which math-verify takes for a product.
_NAME = re.compile(r"^\s*(?:\\(?:text|mathrm)\s*\{)?\s*[A-Z]{3,}\s*\}?\s*$")
_POINTS = re.compile(r"^(?:\\left)?\\\{\s*(?P<in>\(.*\)\s*,\s*\(.*\))\s*(?:\\right)?\\\}$", re.DOTALL)
_MOST_MARKS, _LEAST_WORD = 3, 4
_EXACT, _DIGITS = sympy.Rational(1, 10**25), 40
# The rule of 6 decimals is coarser than this only for numbers below 0.0001.
_ROUNDED = sympy.Rational(1, 200)


@lru_cache(maxsize=256)
def latex(answer: str) -> str:
    r"""An answer in LaTeX, whatever notation it is in.

    >>> latex("1 1/2 + √(3)")
    '1\\frac{1}{2} + \\sqrt{(3)}'
    >>> latex(r"9\,500 cm²"), latex(r"0.1\overline{6}"), latex("3e8")
    ('9,500', '\\frac{15}{90}', '3 \\times 10^{8}')
    """
    answer = _TABBED.sub(r"\\t", answer.translate(_TRANSLATED))
    if shown := _DISPLAYED.match(answer):
        answer = shown["in"]
    answer = _ONE_FORMULA.sub(r"\1", answer)
    for _ in range(_MOST_MARKS):
        answer = _AROUND.sub(lambda found: found["in"], answer)
    for pattern, written in _NOTATIONS:
        answer = pattern.sub(written, answer)
    return answer.strip()


@lru_cache(maxsize=64)
def parsed(answer: str) -> list[Any]:
    """The answer as math-verify parses it: an expression and its text, or only the text."""
    return parse(rf"\boxed{{{latex(answer)}}}", [LatexExtractionConfig(boxed_match_priority=0)], **_ALONE)


def last_expression(text: str) -> list[Any]:
    """The last formula or number in a text, as math-verify finds it."""
    return parse(text, **_ALONE)


def equal(reference: str, answer: str | None, found: list[Any]) -> bool:
    r"""Whether an answer equals the reference.

    math-verify compares to 15 decimals, so it takes 1/2004! and 1/2006! for equal: numbers are compared here to 25
    digits, or to six decimals and 0.5 % if one of them is a decimal. It also drops the base of a numeral, and takes the
    set {3,4} for the point (3,4). An inequality equals the interval of its solutions.

    Args:
        reference: The reference.
        answer: The answer as written; None for an expression found in a text.
        found: The answer, parsed.
    """
    if answer is not None:
        if _alike(reference) == _alike(answer):
            return True
        if None not in (times := [_CLOCK.match(latex(each)) for each in (reference, answer)]):
            return _same_time(*times)  # type: ignore[arg-type]
        if _is_set(reference) != _is_set(answer):
            reference, answer = (_POINTS.sub(r"\g<in>", latex(each)) for each in (reference, answer))
            found = parsed(answer)
        if all(map(_NAME.match, (reference, answer))):
            return False
        numerals = [_numeral(each) for each in (reference, answer)]
        if None not in numerals:
            return numerals[0] == numerals[1]
        if (_is_set(reference) and _is_point(answer)) or (_is_point(reference) and _is_set(answer)):
            return False
        if _is_point(reference) and (point := _NAMED_POINT.sub("", latex(answer))) != latex(answer):
            answer, found = point, parsed(point)
        sets = []
        if any(
            _RELATION.search(latex(each)) or _MEMBER.match(latex(each)) or _BETWEEN.search(latex(each))
            for each in (reference, answer)
        ):
            sets = [solutions for each in (reference, answer) if (solutions := _solutions(each))]
        if len(sets) == 2 and (None in (variables := [each.variable for each in sets]) or len(set(variables)) == 1):
            one, other = (each.numbers for each in sets)
            return verify(one, other, timeout_seconds=None) and not _differ(one, other)
    expected = parsed(reference)
    return verify(expected, found, timeout_seconds=None) and not _differ(_bare(expected[0]), _bare(found[0]))


def _alike(answer: str) -> str:
    """An answer without spaces; without upper case too if it is a word."""
    text = re.sub(r"\\(?:text|mathrm|textbf)\s*\{([a-zA-Z ]+)\}", r"\1", latex(answer))
    text = re.sub(r"\\[,;:! ]|(?<!\d)\s|\s(?!\d)|(?<=[a-zA-Z])\.$", "", text)
    return text.casefold() if text.isalpha() and len(text) >= _LEAST_WORD else text


def _same_time(one: re.Match[str], other: re.Match[str]) -> bool:
    """Whether two times of day are equal; one without a.m. or p.m. equals both."""
    halves = {half.lower() for found in (one, other) if (half := found["half"])}
    return one["minutes"] == other["minutes"] and int(one["hours"]) == int(other["hours"]) and len(halves) < 2


def _bare(value: Any) -> Any:
    """The value of an assignment such as x = 5."""
    is_assignment = isinstance(value, sympy.Eq) and (isinstance(value.lhs, sympy.Symbol) or value.lhs.is_number)
    return value.rhs if is_assignment else value


def _differ(one: Any, other: Any) -> bool:
    """Whether two values that math-verify takes for equal are different numbers, or have such numbers in them."""
    if isinstance(one, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase):
        return any(_differ(*pair) for pair in zip(one.flat(), other.flat(), strict=True))
    if isinstance(one, sympy.Tuple) and isinstance(other, sympy.Tuple):
        return any(_differ(*pair) for pair in zip(one.args, other.args, strict=True))
    if isinstance(one, sympy.Interval) and isinstance(other, sympy.Interval):
        return _differ(one.start, other.start) or _differ(one.end, other.end)
    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr) and one.is_number and other.is_number):
        return False
    one, other = (value.doit() for value in (one, other))
    if one == other or not (one.is_finite and other.is_finite):
        return False
    if one.is_Rational and other.is_Rational and not _is_percent(one, other):
        return True
    rounded = one.has(sympy.Float) or other.has(sympy.Float)
    size = max(abs(one.evalf(_DIGITS)), abs(other.evalf(_DIGITS)))
    distance = abs((one - other).evalf(_DIGITS))
    if min(abs(one), abs(other)).is_zero and not rounded:
        return (one - other).equals(0) is False
    return bool(distance > size * (_ROUNDED if rounded else _EXACT)) and not _is_percent(one, other)


def _is_percent(one: sympy.Expr, other: sympy.Expr) -> bool:
    """Whether one is the other in percent, which math-verify accepts: 50% for 50 and for 1/2."""
    large, small = (one, other) if abs(one) > abs(other) else (other, one)
    return bool(abs((large - 100 * small).evalf(_DIGITS)) <= _EXACT * abs(large.evalf(_DIGITS)))


def _numeral(answer: str) -> int | None:
    """The value of a numeral with its base, such as 52_8; None if it is none."""
    found = _BASE.match(answer.strip().strip("$"))
    base = None if found is None else int(found["base"]) if found["base"].isdigit() else _BASES.get(found["base"])
    try:
        return None if found is None or base is None else int(found["digits"], base)
    except ValueError:
        return None


def _is_set(answer: str) -> bool:
    text = latex(answer).removeprefix(r"\left")
    return text.startswith((r"\{", "{")) and not _RELATION.search(text)


def _is_point(answer: str) -> bool:
    text = latex(answer).replace(r"\left", "").replace(r"\right", "")
    return text.startswith("(") and text.endswith(")") and "," in text


class _Solutions(NamedTuple):
    """The numbers that an interval has, or that solve inequalities in a variable."""

    numbers: sympy.Set
    variable: str | None


def _solutions(answer: str) -> _Solutions | None:
    """The solutions of inequalities in one variable, or an interval; None for other answers."""
    text = _SIDE.sub("", latex(answer))
    if r"\infty" in text:
        text = _BETWEEN.sub(r"\\cup ", text)
    if builder := _BUILDER.match(text):
        text = builder["in"]
    text = _MEMBER.sub("", text)
    if not _RELATION.search(text):
        value = next(iter(parsed(text)), None)
        return _Solutions(value, None) if isinstance(value, sympy.Interval | sympy.Union | sympy.Complement) else None
    solved, names = [], set()
    for either in _OR.split(text):
        both = []
        for part in filter(str.strip, _AND.split(either)):
            relation = next(iter(parsed(part)), None)
            try:
                names |= {symbol.name for symbol in relation.free_symbols}  # type: ignore[union-attr]
                both.append(unwrap_fcs(relation).as_set())  # type: ignore[arg-type]
            except Exception:  # sympy raises any exception for what it cannot solve
                return None
        solved.append(sympy.Intersection(*both))
    return _Solutions(sympy.Union(*solved), None if builder else names.pop()) if len(names) == 1 else None
