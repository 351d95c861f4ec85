"""Tagged calls: calls between the special tokens and tags of models' chat templates.

A name that JSON follows: Llama and Functionary (`<function=f>{}`), Mistral (`[TOOL_CALLS]f[ARGS]{}`), DeepSeek, Kimi,
Harmony (`to=functions.f ...<|message|>{}`), Qwen-Agent and ReAct. A name with tagged values: Qwen3-Coder and Seed
(`<function=f><parameter=a>`), Anthropic, MiniMax and DeepSeek 3.2 (`<invoke name="f">`), GLM (`<arg_key>`), and Gemma
(`call:f{a:<escape>text<escape>}`). The name of an offered function may be a tag, whose attributes, fields or JSON are
the arguments, or stand before JSON (ChatGLM). Models without a template write `Tool: f` and `Arguments: {}`.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from features.verification.call_forms.brackets import object_at
from features.verification.call_forms.call import Call, Parameters, arguments_of, offered_name

_NAME = r"(?P<name>[A-Za-z_][\w.:-]*)"
_BEFORE_JSON = re.compile(
    rf"""(?:
        <function=|<function\ name=["']|\bto=|<\|recipient\|>\s*|\[TOOL_CALLS\]\s*|<(?:tool_)?name>\s*
        |function<[|｜]tool[▁_]sep[|｜]>|<[|｜]tool[▁_]call[▁_]begin[|｜]>\s*|<tool_call>\s*
        |^[^\S\n]*+(?:✿FUNCTION✿:|>>>)[^\S\n]*
        |^(?:[^\S\n]|[*-])*+(?i:action|(?:tool|function)(?:[ _](?:call|name))?|name)\**:\**[^\S\n]*[`"]?
    )
    {_NAME}
    (?:
        \s|```|json\b|code\b|commentary\b|["'>]|<[|｜]?[\w▁]+[|｜]?>|</(?:tool_)?name>
        |✿ARGS✿:|\[CALL_ID\]\w*|\[ARGS\]|`|\[
        |[*-]*\s*(?i:(?:(?:action|tool|function)[ _])?(?:input|arguments|parameters|args))\**:\**
    )*+(?=\{{)""",
    re.VERBOSE | re.MULTILINE,
)
_WITHOUT_ARGUMENTS = re.compile(
    rf"""\bto={_NAME}[^\n{{]*<\|message\|>\s*(?:<\|call\|>|\Z)
    |^\s*\**Action\**:\s*{_NAME.replace("name", "action")}\s*\n
    \s*\**Action\ Input\**:[^\S\n]*(?:None|null|"")?[^\S\n]*(?:\n|\Z)""",
    re.VERBOSE | re.MULTILINE,
)
_PREFIX = r"(?:[\w-]+:|｜DSML｜)?"
_PARAMETER = re.compile(
    rf"""<{_PREFIX}parameter(?:=|\s+name=)["']?(?P<key>[^"'<>\s]+)["']?(?P<more>[^<>]*)>(?P<value>.*?)"""
    rf"""(?:</{_PREFIX}parameter>|(?=<{_PREFIX}parameter\b|</{_PREFIX}(?:function|invoke)>)|\Z)""",
    re.DOTALL,
)
_PAIR = re.compile(
    r"<(?:\w+_)?arg_key>(?P<key>.*?)</(?:\w+_)?arg_key>\s*<(?:\w+_)?arg_value>(?P<value>.*?)</(?:\w+_)?arg_value>",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r"""(?P<key>[\w.-]+)=(?P<quote>["'])(?P<value>.*?)(?P=quote)""", re.DOTALL)
_FIELD = re.compile(r"<(?P<key>[A-Za-z_][\w.-]*)>(?P<value>.*?)</(?P=key)>", re.DOTALL)
_BLOCKS = [
    (re.compile(rf"<function={_NAME}>(?P<in>.*?)(?:</function>|\Z)", re.DOTALL), _PARAMETER),
    (
        re.compile(
            rf"""<{_PREFIX}(?P<tag>invoke|(?:function|tool)(?:_call)?)\s+name=["']{_NAME}["']>(?P<in>.*?)(?:</{_PREFIX}(?P=tag)>|\Z)""",
            re.DOTALL,
        ),
        _PARAMETER,
    ),
    (
        re.compile(
            rf"<(?:\w+_)?tool_call>\s*{_NAME}\s*(?P<in>(?:<(?:\w+_)?arg_key>.*?)?)(?:</(?:\w+_)?tool_call>|\Z)",
            re.DOTALL,
        ),
        _PAIR,
    ),
    (
        re.compile(
            rf"<(?:tool_)?name>\s*{_NAME}\s*</(?:tool_)?name>\s*<(?P<of>parameters|arguments)>(?P<in>.*?)</(?P=of)>",
            re.DOTALL,
        ),
        _FIELD,
    ),
]
_GEMMA = re.compile(rf"<\|?(?:start_function_call|tool_call)>\s*call:{_NAME}(?=\{{)")
_ESCAPED = re.compile(r"(?P<mark><escape>|<\|\"\|>)(?P<text>.*?)(?P=mark)|(?P<key>[\w.-]+)(?=:)", re.DOTALL)
_TEXT = re.compile(r"(?:optional\[)?str(?:ing)?\b", re.IGNORECASE)


def tagged_calls(text: str, parameters: Parameters) -> list[Call]:
    """The calls between tags, those of one notation.

    Args:
        text: A response.
        parameters: The parameters of the offered functions, whose types say what a tagged value is: `5` may be a text.
    """
    forms: list[Callable[[], list[Call]]] = [
        lambda: _before_json(text, parameters),
        *[lambda block=block, pair=pair: _in_blocks(text, block, pair, parameters) for block, pair in _BLOCKS],
        lambda: _of_gemma(text),
        lambda: _in_blocks(text, _own_tags(tuple(parameters)), _FIELD, parameters),
        lambda: _in_blocks(text, _own_tags(tuple(parameters), empty=True), _ATTRIBUTE, parameters),
    ]
    return next(filter(None, (form() for form in forms)), [])


def _before_json(text: str, parameters: Parameters) -> list[Call]:
    calls = {}
    for found in [*_BEFORE_JSON.finditer(text), *_own_lines(tuple(parameters)).finditer(text)]:
        arguments = arguments_of(object_at(text, found.end())[0] or None)
        if arguments or text[found.end() :].lstrip("{ \n").startswith("}"):
            calls[found.end()] = Call(found["name"], arguments or {})
    for found in _WITHOUT_ARGUMENTS.finditer(text):
        calls[found.end()] = Call(found["name"] or found["action"], {})
    return [calls[place] for place in sorted(calls)]


@lru_cache(maxsize=64)
def _own_lines(names: tuple[str, ...]) -> re.Pattern[str]:
    """The names of offered functions before JSON, at the beginning of a line or after a special token."""
    return re.compile(
        rf"(?:^|\|>)[^\S\n]*[`*]*(?P<name>{'|'.join(map(re.escape, names)) or '(?!)'})[`*]*\s*(?::|->|=>|→)?\s*(?=\{{)",
        re.MULTILINE,
    )


@lru_cache(maxsize=64)
def _own_tags(names: tuple[str, ...], *, empty: bool = False) -> re.Pattern[str]:
    """Tags that are the names of offered functions; empty ones have their arguments as attributes."""
    name = rf"<(?P<name>{'|'.join(map(re.escape, names)) or '(?!)'})"
    if empty:
        return re.compile(rf"""{name}(?P<in>(?:\s+[\w.-]+=(?:"[^"]*"|'[^']*'))*)\s*/>""")
    return re.compile(rf"{name}>(?P<in>.*?)</(?P=name)>", re.DOTALL)


def _in_blocks(text: str, block: re.Pattern[str], pair: re.Pattern[str], parameters: Parameters) -> list[Call]:
    calls = []
    for found in block.finditer(text):
        types = parameters.get(offered_name(found["name"], parameters), {})
        inside = found["in"].strip()
        if inside.startswith("{") and (arguments := arguments_of(object_at(inside, 0)[0])) is not None:
            calls.append(Call(found["name"], arguments))
            continue
        pairs = {each["key"].strip(): each for each in [*pair.finditer(inside)] or _FIELD.finditer(inside)}
        calls.append(Call(found["name"], {key: _value(each, types.get(key, "")) for key, each in pairs.items()}))
    return calls


def _value(found: re.Match[str], kind: str) -> Any:
    """A tagged value: a text as it is, without the line ends around it, and everything else as JSON or Python."""
    text, more = found["value"], found.groupdict().get("more") or ""
    if 'string="true"' in more or (_TEXT.match(kind) and not (text.strip() == "null" and "null" in kind)):
        return text.removeprefix("\n").removesuffix("\n")
    text = text.strip()
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        value = object_at(text, 0)[0] if text[:1] in ("[", "{") else None
        return {"True": True, "False": False, "None": None}.get(text, text) if value is None else value


def _of_gemma(text: str) -> list[Call]:
    """Calls whose keys have no quotes, and whose texts are between marks."""
    calls: list[Call] = []
    for found in _GEMMA.finditer(text):
        written = _ESCAPED.sub(lambda each: json.dumps(each["key"] or each["text"]), text[found.end() :])
        arguments: Mapping[str, Any] | None = arguments_of(object_at(written, 0)[0])
        if arguments is not None:
            calls.append(Call(found["name"], arguments))
    return calls
