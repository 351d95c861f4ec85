import json
from typing import Any

import pytest

from features.verification.programs import code_of, completed, defines, names_needed


def test_fences_in_a_docstring_are_not_taken_for_the_code() -> None:
    code = 'def f():\n    """\n    ```\n    g()\n    ```\n    """\n    return 1\n'
    assert code_of(code, ["f"]) == code_of(code) == code
    assert code_of(f"#START OF CODE\n{code}#END OF CODE", ["f"]) == code


def test_code_that_a_model_only_thought_of_is_left_out() -> None:
    thought = "<think>\n#START OF CODE\ndef f(): return 1\n#END OF CODE\n```\ndef f(): return 2\n```\n"
    assert code_of(f"{thought}</think>\n```\ndef f(): return 3\n```", ["f"]) == "def f(): return 3\n"
    assert code_of(thought, ["f"]).strip() == ""
    code = 'def f(text):\n    return text.split("</think>")\n'
    assert code_of(code, ["f"]) == code


def test_an_invalid_function_name_is_not_found() -> None:
    assert not defines("def f(x): return 1", "f)")


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("x = 1", "x = 1"),
        ("a\r\n#START OF CODE\r\nx = 1\r\n#END OF CODE\r\nb", "x = 1\n"),
        ("# start of code (Python)\nx = 1", "x = 1"),
        ("#START OF CODE\nx = 1\n#END OF CODE\n#START OF CODE\nx = 2\n#END OF CODE", "x = 2\n"),
        ("#START OF CODE\n```python\nx = 1\n```\n#END OF CODE", "x = 1\n"),
        ("```python\n#START OF CODE\nx = 1\n#END OF CODE\n```", "x = 1\n"),
        ("```\nx = 1\n```\nThen:\n```py\nx = 2\n```\nas above", "x = 2\n"),
        ("1. So:\n   ```python\n   def f():\n       return 1\n   ```", "def f():\n    return 1\n"),
        ("```\n    return 1\n```", "    return 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("Say `x = 1`.", "Say `x = 1`."),
        ("```\ndef f(): pass\n```\n```\nf()\n```", "def f(): pass\n"),
        ("```\nf = 1\n```\n```\ndef g(): pass\n```\n```\n1\n```", "f = 1\n"),
    ],
)
def test_code_is_found_between_marks_or_in_the_last_block_that_will_do(response: str, code: str) -> None:
    assert code_of(response, ["f"]) == code


def test_the_last_block_is_taken_where_no_function_is_named() -> None:
    assert code_of("```\ndef f(): pass\n```\n```\nf()\n```") == "f()\n"
    assert code_of("1. So:\n  ```\n  f()\n  ```") == "f()\n"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f(x): pass", True), ("async def f(): pass", True), ("class f: pass", True), ("f = 1", True),
        ("f: int = 1", True), ("x = 1\ndef  f (): pass", True), ("def ff(x): pass", False), ("f == 1", False),
        ("f(1)", False), ("    def f(): pass", False),
    ],
)  # fmt: skip
def test_what_defines_a_function(code: str, found: bool) -> None:
    assert defines(code, "f") is found


def test_a_prelude_that_is_no_code_by_itself_is_left_out() -> None:
    assert completed("def f(): pass", "def f():\n", "f") == "def f(): pass"
    assert completed("    pass", "def f():\n", "f") == "def f():\n    pass"


SQUARE = "def square(n):\n    return n ** 2\n"
FENCED = f"```python\n{SQUARE}```"
ANSWERS = {
    "usage after it": f"{FENCED}\nUsage:\n```python\nprint(square(int(input())))\n```",
    "usage before it": f"You want this:\n```python\nsquare(3) == 9\n```\nHere:\n{FENCED}",
    "its own wrong tests": f"{FENCED}\nTests:\n```python\nassert square(3) == 10\n```",
    "its own tests as functions": f"{FENCED}\n```python\ndef test_square():\n    assert square(3) == 10\n"
    "test_square()\n```",
    "output": f"{FENCED}\nOutput:\n```\n9\n```",
    "output that is no code": f"{FENCED}\nOutput:\n```text\nThe square is 9.\n```",
    "a shell": f"```bash\npip install x\n```\n{FENCED}\nRun it:\n```bash\npython square.py\n```",
    "a correction": f"```python\ndef square(n):\n    return n ** 3\n```\nNo, wait.\n{FENCED}",
    "imports apart": "```python\nimport operator\n```\nThen\n```python\ndef square(n):\n"
    "    return operator.mul(n, n)\n```",
    "a helper apart": "```python\ndef times(a, b):\n    return a * b\n```\nThen\n```python\ndef square(n):\n"
    "    return times(n, n)\n```\nTry:\n```python\nprint(square(undefined))\n```",
    "a helper after it": "```python\ndef square(n):\n    return times(n)\n```\nwith\n```python\ndef times(a):\n"
    "    return a * a\n```",
    "a constant apart": "~~~py\nPOWER = 2\n~~~\nand\n~~~py\ndef square(n):\n    return n ** POWER\n~~~",
    "a base class apart": "```python\nclass Base:\n    power = 2\n```\n```python\nclass Own(Base):\n    pass\n```\n"
    "```python\ndef square(n):\n    return n ** Own.power\n```",
    "begin and done": f"[BEGIN]\n{SQUARE}[DONE]",
    "done": f"{SQUARE}[DONE]",
    "done, and the next question": f"{SQUARE}[DONE]\n\nWrite another.\n[BEGIN]\ndef cube(n):\n"
    "    return n ** 3\n[DONE]",
    "begin and done with a quotation": f"[BEGIN]\n '{SQUARE}' \n[DONE]",
    "a quotation": repr(SQUARE),
    "PYTHON tags": f"Here:\n[PYTHON]\n{SQUARE}[/PYTHON]\nDone!",
    "code tags": f"<code>\n{SQUARE}</code>",
    "code tags on the line": f"<pre><code class='python'>{SQUARE}</code></pre>",
    "code tags with entities": "<code>def square(n):\n    return n ** 2 if n &gt; 0 else n * n</code>",
    "answer tags around a fence": f"<answer>\n{FENCED}\n</answer>",
    "prose around": f"Sure!\n\n{SQUARE}\nThis works because n ** 2 is a square. Done",
    "prose around, with an import": "Solution:\n\nimport operator\n\ndef square(n):\n    return operator.mul(n, n)\n\n"
    "It uses operator.mul, which\nis fast.",
    "prose and a decorator": "Sure, here it is.\nfrom functools import cache\n\n@cache\ndef square(n):\n"
    "    return n ** 2\n\nOK",
    "prose, and usage in a fence": f"Here:\n\n{SQUARE}\nUse it so:\n```python\nprint(square(3))\n```",
    "indented in prose": "Here:\n\n    def square(n):\n        return n ** 2\n\nDone.",
    "the fence's line": f"```python {SQUARE}```",
    "the fence's line without a language": f"```{SQUARE}```",
    "the fence's line with a title": f"```python title=\"square.py\"\n{SQUARE}```",
    "one line": "```python def square(n): return n ** 2```",
    "backquotes in a sentence": "Use `def square(n): return n ** 2`.",
    "a fence that ends on its last line": f"```python\n{SQUARE.rstrip()}```\nDone.",
    "a fence after words": f"Here it is: ```python\n{SQUARE}```",
    "a fence without an end": f"Here:\n```python\n{SQUARE}",
    "a fence without a beginning": f"{SQUARE}```\nThis squares.",
    "four backquotes": f"````python\n{SQUARE}````",
    "a docstring with a fence": '```python\ndef square(n):\n    """Square.\n\n    ```\n    square(3)\n'
    '    ```\n    """\n'
    "    return n ** 2\n```\nOutput:\n```\n9\n```",
    "a byte-order mark": "\ufeff" + SQUARE,
    "a byte-order mark in a fence": f"```python\n\ufeff{SQUARE}```",
    "Windows' ends of lines": f"Here:\n{FENCED}\nOutput:\n```\n9\n```".replace("\n", "\r\n"),
    "tabs": "```python\ndef square(n):\n\treturn n ** 2\n```",
    "all of it indented": "```python\n    def square(n):\n        return n ** 2\n```",
    "in a list": "1. So:\n   ```python\n   def square(n):\n       return n ** 2\n   ```\n2. Then:\n   ```sh\n"
    "   python x.py\n   ```",
    "in a quotation": "> ```python\n> def square(n):\n>     return n ** 2\n> ```",
    "prompts of an interpreter": "```python\n>>> def square(n):\n...     return n ** 2\n>>> square(3)\n9\n```",
    "escaped ends of lines": "def square(n):\\n    return n ** 2\\n",
    "a lambda": "```python\nsquare = lambda n: n ** 2\n```\n```python\nprint(square(3))\n```",
    "two functions, one asked for": f"{FENCED}\n```python\ndef cube(n):\n    return undefined\n```",
    "protected spaces": "```python\ndef square(n):\n\u00a0\u00a0\u00a0\u00a0return n ** 2\n```",
    "the fence's line, and more": "```python POWER = 2\ndef square(n):\n    return n ** POWER\n```",
    "PYTHON tags on the line": "[PYTHON]def square(n): return n ** 2[/PYTHON]",
    "a name like a tag": "[BEGIN]\ndef square(n):\n    ends, end = [n * n], 0\n    return ends[end]\n[DONE]",
    "a comment at the margin": "So:\n\ndef square(n):\n# the square\n    return n ** 2\n\nDone, as you see.",
    "a remark at the end": f"{SQUARE}Done",
    "a space before it": f" {SQUARE}",
    "a label before it": f"Answer: {SQUARE}",
    "a zero-width space": f"\u200b{SQUARE}",
    "a field of an object in a list": json.dumps([{"thoughts": "n times n", "python_code": SQUARE}]),
    "a field of an object in a sentence": f"Here: {json.dumps({'result': {'code': SQUARE}})}",
    "numbers of lines": "1: def square(n):\n2:     return n ** 2",
    "numbers of lines in a fence": "```python\n1 | def square(n):\n2 |     return n ** 2\n```",
    "Markdown's escapes": "Sure:\n\ndef square\\_of(n):\n    return n \\*\\* 2\n\nsquare = square\\_of",
    "curly quotes": "def square(n):\n    “””Square.”””\n    return n ** 2\n",
    "a notebook's commands": f"```python\n%%writefile square.py\n!pip install x\n{SQUARE}```",
    "CDATA": f"<code><![CDATA[\n{SQUARE}]]></code>",
    "HTML's line ends": "<pre>def square(n):<br>    return n ** 2</pre>",
    "a notebook's marks": f"<jupyter_code>{SQUARE}<jupyter_output>9",
    "a fence without an end, and prose": f"```python\n{SQUARE}\n\nThis function squares.",
    "three quotes as a fence": f"'''python\n{SQUARE}'''",
    "LaTeX": f"\\begin{{lstlisting}}[language=Python]\n{SQUARE}\\end{{lstlisting}}",
}  # fmt: skip


@pytest.mark.parametrize("response", ANSWERS.values(), ids=ANSWERS)
def test_the_program_is_found_wherever_an_answer_puts_it(response: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(code_of(response, ["square"]), "<code>", "exec"), names)
    assert [names["square"](n) for n in (3, 0, -2)] == [9, 0, 4]


@pytest.mark.parametrize("wrong", ["n ** 3", "n + n", "str(n)"])
@pytest.mark.parametrize("response", ANSWERS.values(), ids=ANSWERS)
def test_a_wrong_program_is_found_too_and_not_mended(response: str, wrong: str) -> None:
    if response.count("n ** 2") != 1:
        return
    names: dict[str, Any] = {}
    exec(compile(code_of(response.replace("n ** 2", wrong), ["square"]), "<code>", "exec"), names)
    assert names["square"](5) == eval(wrong, {"n": 5})


PROMPT = 'import math\n\n\ndef square(n):\n    """Square.\n\n    >>> square(3)\n    9\n    """\n'
BODIES = {
    "indented": "    result = n\n    return result ** 2\n",
    "with tabs": "\tresult = n\n\treturn result ** 2\n",
    "not indented": "result = n\nreturn result ** 2\n",
    "only the first line not indented": "result = n\n    return result ** 2",
    "too far indented": "        result = n\n        return result ** 2\n",
    "two spaces": "  result = n\n  return result ** 2\n",
    "not indented, with a block": "for each in range(n):\n    pass\nreturn n ** 2",
    "with tabs and a block": "\tfor each in range(n):\n\t\tpass\n\treturn n ** 2",
    "in a fence": "```python\n    return n ** 2\n```",
    "in a fence, not indented": "```python\nreturn n ** 2\n```",
    "before the end of a fence": "    return n ** 2\n```\n\nThis squares n.",
    "cut off in the middle of what follows": "    return n ** 2\n\n\ndef cube(n):\n    return (n",
    "with a helper after it": "    return helper(n)\n\n\ndef helper(n):\n    return n ** 2\n",
    "from the prompt on": f"{PROMPT}    return n ** 2\n",
    "with its own imports": "    import operator\n    return operator.mul(n, n)\n",
}


@pytest.mark.parametrize("response", BODIES.values(), ids=BODIES)
def test_a_body_alone_completes_its_prelude(response: str) -> None:
    names: dict[str, Any] = {}
    code = completed(code_of(response, ["square"]), PROMPT, "square")
    exec(compile(code, "<code>", "exec"), names)
    assert names["square"](3) == 9


def test_several_names_may_stand_in_several_blocks() -> None:
    response = "```python\nclass Node:\n    pass\n```\n```python\nclass Tree:\n    pass\n```\n```python\nTree(1)\n```"
    names: dict[str, Any] = {}
    exec(code_of(response, ["Node", "Tree"]), names)
    assert {"Node", "Tree"} <= names.keys()
    exec(code_of(response, ["Tree"], ["Node"]), names := {})
    assert {"Node", "Tree"} <= names.keys()


def test_names_needed_are_those_that_code_uses_and_does_not_define() -> None:
    code = "import math\nx = math.pi\ndef f(a):\n    b = a + c\n    return [d for e in b if g(e)]\nh(x, f, len(x))"
    assert names_needed(code) == {"c", "d", "g", "h", "len"}


@pytest.mark.parametrize(
    "text",
    [
        "<code>",
        "[BEGIN]\n",
        "```\n",
        "`",
        "```python\n",
        "(",
        "x = (\n",
        "@a\n",
        "[DONE]\n<pre>",
        ">",
        "\0",
        "\ud800",
        "{[1]: 2}",
        "1 is 1\n",
    ],
)
def test_no_response_is_too_odd(text: str) -> None:
    assert isinstance(code_of(text * 1500, ["f"]), str)
    assert isinstance(completed(code_of(text * 1500, ["f"]), PROMPT, "square"), str)


@pytest.mark.parametrize(
    "response",
    [
        f"{SQUARE}<|endoftext|>",
        f"<|python_tag|>{SQUARE}<|eom_id|>",
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{SQUARE}<|eot_id|>",
        f"<|im_start|>assistant\n{SQUARE}<|im_end|>",
        "In [1]: def square(n):\n   ...:     return n ** 2\n",
        f"{SQUARE}<|im_end|>\n<|im_start|>user\nAnd cubes?",
        f"```python:main.py\n{SQUARE}\n```",
        f"```python src/squares.py\n{SQUARE}\n```",
        f"```python\n{SQUARE}\n```<|eot_id|>",
        f"```python\n{SQUARE}\n```\nTests:\n```python\nfrom solution import square\nassert square(2) == 5\n```",
        json.dumps({"thoughts": "n times n", "code": SQUARE}),
        f"```json\n{json.dumps({'solution': SQUARE})}\n```",
        json.dumps({"answer": f"```python\n{SQUARE}\n```"}),
    ],
)
def test_what_surrounds_a_program_is_no_part_of_it(response: str) -> None:
    assert code_of(response, ["square"]).strip() == SQUARE.strip()
    assert code_of(response).strip() == SQUARE.strip() or "from solution" in response


def test_marks_of_turns_within_texts_of_a_program_stay() -> None:
    code = 'END = "<|endoftext|>"\ndef square(n):\n    return n * n\n'
    assert code_of(code, ["square"]) == code
    assert code_of(f"Here:\n```python\n{code}```\nDone.", ["square"]).strip() == code.strip()
