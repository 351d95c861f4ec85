import pytest

from features.verification.programs import code_of, completed, defines


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
