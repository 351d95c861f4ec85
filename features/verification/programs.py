"""Programs: the Python program in a response, wherever the response puts it."""

import ast
import builtins
import html
import json
import re
import symtable
import textwrap
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

from features.verification.answers import without_thoughts

_MARKED = re.compile(
    r"^[^\S\n]*#[^\S\n]*START OF CODE[^\n]*\n(.*?)(?=^[^\S\n]*#[^\S\n]*END OF CODE|\Z)", re.DOTALL | re.MULTILINE | re.I
)
_TAGGED = re.compile(
    r"^[^\S\n]*\[(?:BEGIN|PYTHON|CODE|ANSWER)\](.*?)(?:\[(?:DONE|/PYTHON|/CODE|/ANSWER)\]|^\[END\]|\Z)"
    r"|<((?i:code|python|answer|solution|pre))\b[^>\n]*>(.*?)(?:</\2>|\Z)",
    re.DOTALL | re.MULTILINE,
)
_RUN_ON = re.compile(r"^[^\S\n]*\[(?:DONE|END|/PYTHON|/CODE)\]", re.MULTILINE)
_FENCE = re.compile(r"^(?P<before>[^`~\n]*)(?P<mark>`{3,}|~{3,})(?P<info>[^`\n]*)$")
_INFO = re.compile(r"\s*(?:python3?|py)?\b:?\s*(?:[\w./-]+\.py\b)?(?P<code>.*)", re.I)
_TURN_END = re.compile(
    r"(?:<\|(?:im_end|eot_id|eom_id|end_of_text|endoftext|end|return)\|>|</s>|<(?:end_of_turn|eos)>)\s*$|<jupyter_output>",
    re.MULTILINE,
)
_TURN_START = re.compile(
    r"^\s*<jupyter_code>|^\s*<\|(?:python_tag|assistant|im_start|start_header_id)\|>(?:assistant\b)?(?:<\|end_header_id\|>)?[^\S\n]*\n*"
)
_KEYS = ("code", "solution", "program", "completion", "python", "answer")
_LABEL = re.compile(
    r"^\s*(?:\*\*)?(?i:answer|solution|code|output|response|program|python)(?:\*\*)?:(?:\*\*)?[^\S\n]*(?=(?:def|class|import|from|async|@)\b)"
)
_ESCAPED = re.compile(r"^\s*(?:def|class) +\w*\\_", re.MULTILINE)
_NUMBERED = re.compile(r"^[^\S\n]*\d+(?:[^\S\n]*[:|.](?=\s)|)(?:[^\S\n]|$)", re.MULTILINE)
_COMMAND = re.compile(r"^[^\S\n]*[%!].*$", re.MULTILINE)
_CURLY = str.maketrans("“”‘’", "\"\"''")
_QUOTED = re.compile(r"(?<!`)(`{1,3})(?!`)(?:python3?\b|py\b)?\s*([^`]+)\1(?!`)", re.I)
_PROMPT = re.compile(r"^\s*(?:>>>|\.\.\.:?|In \[\d+\]:) ?", re.MULTILINE)
_GOES_ON = re.compile(r"(?:else|elif|except|finally)\b|[])}#]")
_QUOTE = re.compile(r"^[ \t]*> ?", re.MULTILINE)
_BEGINNING = re.compile(
    r"(?:from|import|def|class|async|if|for|while|try|with)\b|@"
    r"|[A-Za-z_][\w., ]*(?:\[[^]]*\]|: *[\w\[\], .|]+)? *[-+*/]?=[^=]"
    r"|[A-Za-z_][\w.]*\("
)
_DEFINITION = re.compile(r"^(?:(?:async +)?def|class) +(\w+)|^(\w+)\b[^=\n]*=(?!=)", re.MULTILINE)
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
_MOST_FENCES, _MOST_LINES, _DEEPEST = 6, 300, 3
_INDENT = "    "


def code_of(response: str, names: Collection[str] = (), others: Collection[str] = ()) -> str:
    """The code in a response that defines names.

    The code is the text between `#START OF CODE` and `#END OF CODE`, else the blocks of Python that define the names,
    with the other blocks that those need, else code that stands in prose, else the last block, else the whole response.
    Of several blocks that define a name, the last counts. A model's thoughts before its answer are ignored.

    Args:
        response: The text that a model has written.
        names: What the code must define; one of them is enough.
        others: What it may define.

    >>> code_of("Sure!\\n#START OF CODE\\nx = 1\\n#END OF CODE\\nDone.")
    'x = 1\\n'
    >>> code_of("```python\\ndef f(): return 1\\n```\\nTry it:\\n```python\\nprint(f())\\n```", ["f"])
    'def f(): return 1\\n'
    """
    text = response.replace("\r\n", "\n").replace("\ufeff", "")
    if not is_python(text):
        text = _TURN_START.sub("", without_thoughts(text.replace("\u200b", "")))
        text = text[: end.start()] if (end := _TURN_END.search(text)) and text[: end.start()].strip() else text
    text = _LABEL.sub("", _field(text) or text)
    if "```" not in text and _ESCAPED.search(text):
        text = re.sub(r"\\([_*\[\]#<>])", r"\1", text)
    if re.match(r" +(?:def|class|import|from|async|@)", text) and is_python(text.lstrip(" ")):
        text = text.lstrip(" ")
    if marked := _MARKED.findall(text):
        text = _together(marked, names, others) or textwrap.dedent(marked[-1])
    if is_python(text):
        # If the whole text is Python, its fences are inside docstrings.
        return _without_remarks(_repaired(text))
    blocks = list(_blocks(text))
    found = _together(blocks, names, others) or _together([*blocks, *_in_prose(text)], names, others)
    if found is None and re.match(r"\s*\n[ \t]|[ \t]", text):
        # A function's body; a fence after it ends what came before the response.
        return re.split(r"^\s*```", text, maxsplit=1, flags=re.MULTILINE)[0] or text
    return _without_remarks(found if found is not None else _repaired(blocks[-1] if blocks else text))


def _field(text: str) -> str | None:
    """The program in a field of the JSON object or list that a text is, in a fence or not, or that stands in it."""
    bare = re.sub(r"^\s*```(?:json)?\s*\n|\n\s*```\s*$", "", text).strip()
    start = min((place for sign in "{[" if (place := bare.find(sign)) >= 0), default=-1)
    if start < 0 or "def " in bare[:start] or "```" in bare[:start]:
        return None
    try:
        found, _ = json.JSONDecoder(strict=False).raw_decode(bare, start)
    except (ValueError, RecursionError):
        return None
    texts = sorted(_texts(found), key=lambda pair: pair[0] not in _KEYS)
    return next((code for key, code in texts if _is_program(code) or (start == 0 and key in _KEYS)), None)


def _texts(value: Any, key: str = "", depth: int = _DEEPEST) -> Iterator[tuple[str, str]]:
    """The texts in a JSON value, each with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict | list) and depth:
        for name, each in value.items() if isinstance(value, dict) else ((key, each) for each in value):
            yield from _texts(each, name, depth - 1)


def _is_program(text: str) -> bool:
    return "```" in text or (_DEFINITION.search(text) is not None and is_python(text))


def completed(code: str, prelude: str, entry_point: str | None) -> str:
    """Put the prelude before code: its imports and helpers, or the signature if the code is only a function body."""
    if not prelude.strip():
        return code
    if entry_point is None or defines(code, entry_point):
        return f"{prelude}\n\n{code}" if is_python(prelude) else code
    return next((prelude + body for body in _bodies(code) if is_python(prelude + body)), prelude + code)


def defines(code: str, name: str) -> bool:
    """Whether code defines this name at the top level, judged line by line."""
    name = re.escape(name)
    return re.search(rf"^(?:(?:async +)?def|class) +{name}\b|^{name}\b[^=\n]*=(?!=)", code, re.MULTILINE) is not None


def is_python(text: str) -> bool:
    """Whether a text can be compiled."""
    try:
        _compile(text)
    except _UNREADABLE:
        return False
    return True


def _compile(text: str) -> symtable.SymbolTable:
    """Compile a text without the warnings that are its author's; return its symbols.

    Raises:
        Exception: Of the kinds in `_UNREADABLE`, if it is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compile(text, "<code>", "exec", dont_inherit=True)
        return symtable.symtable(text, "<code>", "exec")


def _blocks(text: str, depth: int = _DEEPEST) -> Iterator[str]:
    """The blocks that a text marks as code, in order; `depth` limits tags inside tags."""
    tagged = [bracketed or other for bracketed, _, other in _TAGGED.findall(text)] if depth else []
    if depth and (run_on := _RUN_ON.search(text)):
        before = text[: run_on.start()]
        tagged = tagged if _TAGGED.search(before) else [before, *tagged]
    if tagged:
        for block in tagged:
            yield from list(_blocks(block, depth - 1)) or [_repaired(block.strip("\n") + "\n")]
    else:
        yield from _fenced(text)


def _fenced(text: str) -> Iterator[str]:
    lines = text.split("\n")
    fences = [(place, found) for place, line in enumerate(lines) if (found := _FENCE.match(line))]
    after = 0
    for number, (first, opening) in enumerate(fences):
        info, own = opening["info"], _INFO.match(opening["info"])
        if first < after or (opening["before"].strip(" \t>-*.0123456789") and not info.lower().startswith("py")):
            continue
        head = own["code"].strip() if own else ""
        ends = [(place, found["before"], bool(found["info"].strip())) for place, found in fences[number + 1 :]]
        choices = []
        for last, end, opens in ends[:_MOST_FENCES] or [(len(lines), "", True)]:
            body = [*lines[first + 1 : last], *([end] if end.strip() else []), *([""] if ends else [])]
            next_line = last if opens else last + 1
            choices += [
                ("\n".join([*some, *body]), next_line) for some in ([head], []) if "".join(some).strip() or not some
            ]
        good = (choice for choice in choices if is_python(_repaired(choice[0])))
        block, after = next(good, choices[-1 if len(choices) == 1 else bool(head.strip())])
        yield block
        if not ends and not is_python(_repaired(block)):
            yield from _in_prose(block)


def _repaired(block: str) -> str:
    """A block without its indentation, quotes, prompts or escapes, if that makes it Python; else as it is."""
    if is_python(flush := textwrap.dedent(block)):
        with suppress(SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            value = ast.literal_eval(flush.strip())
            if isinstance(value, str) and "\n" in value and is_python(value):
                return value
        return flush
    bare = block.strip()
    tries = [
        html.unescape(re.sub(r"<br\s*/?>", "\n", flush)),
        flush.replace("\u00a0", " "),
        _QUOTE.sub("", flush),
        flush.translate(_CURLY),
        _COMMAND.sub("", flush),
        bare.removeprefix("<![CDATA[").removesuffix("]]>").strip("\n"),
        _NUMBERED.sub("", flush),
    ]
    if bare[:1] in ("'", '"') and bare[-1:] == bare[:1]:
        tries.append(bare.strip(bare[0]))
    if _PROMPT.match(bare):
        tries.append("\n".join(_PROMPT.sub("", line) for line in bare.split("\n") if _PROMPT.match(line)))
    if "\n" not in bare:
        tries.append(bare.strip("'\"").replace("\\n", "\n").replace("\\t", "\t"))
    return next((each for each in tries if each != flush and is_python(each)), block)


def _in_prose(text: str) -> Iterator[str]:
    """Code that stands between sentences, or between backquotes inside them."""
    lines = [line for line in text.split("\n") if not _FENCE.match(line)]
    chunks: list[list[str]] = []
    for line in lines:
        goes_on = not line.strip() or line[0].isspace() or _GOES_ON.match(line)
        if not chunks or not (goes_on or chunks[-1][0].startswith("@") or _is_open("\n".join(chunks[-1]))):
            chunks.append([])
        chunks[-1].append(line)
    run: list[str] = []
    for chunk in [*chunks, [""]]:
        if _BEGINNING.match(chunk[0]) and is_python("\n".join(chunk)):
            run += chunk
            continue
        yield "\n".join(run)
        run = []
        yield textwrap.dedent("\n".join(chunk[1:]))
    yield from (code for _, code in _QUOTED.findall(text))


def _is_open(chunk: str) -> bool:
    """Whether a chunk of code ends inside a bracket, a text or a statement, and is short enough to go on."""
    if not _BEGINNING.match(chunk) or chunk.count("\n") > _MOST_LINES:
        return False
    try:
        _compile(chunk)
    except SyntaxError as error:
        return any(words in error.msg for words in ("was never closed", "unterminated triple", "expected "))
    except _UNREADABLE:
        return False
    return False


def _together(blocks: Sequence[str], names: Collection[str], others: Collection[str]) -> str | None:
    """The last blocks that define the names, with those that they or the tests need; None if none defines a name."""
    flush = [_repaired(block) for block in blocks]
    known, good = [_defined(block) for block in flush], [is_python(block) for block in flush]
    imported = [_imported(block) for block in flush]
    chosen: set[int] = set()

    def choose(name: str, before: int) -> None:
        places = [place for place, defined in enumerate(known) if name in defined]
        if places and not chosen.intersection(places):
            chosen.add(max(places, key=lambda place: (good[place], name not in imported[place], place < before, place)))

    for name in names:
        choose(name, len(flush))
    if not chosen:
        return None
    for name in others:
        choose(name, len(flush))
    seen: set[int] = set()
    while left := chosen - seen:
        seen.add(place := max(left))
        for name in sorted(names_needed(flush[place])):
            choose(name, place)
    if len(chosen) == 1:
        return flush[chosen.pop()]
    return "\n\n".join(flush[place].strip("\n") for place in sorted(chosen)) + "\n"


def _defined(code: str) -> set[str]:
    """The names that code defines or imports at its top level; a built-in name only if it is a function or class."""
    try:
        table = _compile(code)
    except _UNREADABLE:
        return {name for pair in _DEFINITION.findall(code) for name in pair if name}
    found = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    spaces = {child.get_name() for child in table.get_children()}
    return {name for name in found if name in spaces or not hasattr(builtins, name)}


def _imported(code: str) -> set[str]:
    """The names that code imports at its top level, and does not define itself."""
    try:
        return {
            each.get_name() for each in _compile(code).get_symbols() if each.is_imported() and not each.is_assigned()
        }
    except _UNREADABLE:
        return set()


def names_needed(code: str) -> set[str]:
    """The names that code uses and does not define itself; built-in names too."""
    try:
        tables = [_compile(code)]
    except _UNREADABLE:
        return set()
    top, used = tables[0], set[str]()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                used.add(symbol.get_name())
    return used - {each.get_name() for each in top.get_symbols() if each.is_assigned() or each.is_imported()}


def _without_remarks(code: str) -> str:
    """Code without statements such as `[DONE]` or `Done`, which do nothing but name what does not exist."""
    if not is_python(code):
        return code
    inert = ast.Name | ast.List | ast.Tuple | ast.expr_context
    remarks = [
        node
        for node in ast.parse(code).body
        if isinstance(node, ast.Expr)
        and not isinstance(node.value, ast.Constant)
        and all(isinstance(each, inert) for each in ast.walk(node.value))
    ]
    if not remarks:
        return code
    gone = {line for node in remarks for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    kept = "\n".join(line for number, line in enumerate(code.split("\n"), 1) if number not in gone)
    return kept if is_python(kept) else code


def _bodies(code: str) -> Iterator[str]:
    """A function's body in each way that it may have lost its indentation, the likeliest first."""
    even = textwrap.dedent(code.expandtabs(4))
    whole = [textwrap.indent(even, _INDENT), _INDENT + code.expandtabs(4).lstrip()]
    whole = [code, code.expandtabs(4), *whole] if code[:1].isspace() else [*whole, code]
    yield from whole
    for each in whole:
        # What follows the function may have been cut off in the middle.
        yield re.split(r"^(?=\S)", each, maxsplit=1, flags=re.MULTILINE)[0]
