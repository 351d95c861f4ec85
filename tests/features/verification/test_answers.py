"""The answer that a text states."""

import doctest

import pytest

from features.verification import answers
from features.verification.answers import last_boxed, stated_answer


@pytest.mark.parametrize(("text", "answer"), [
    (r"so $\boxed{5}$.", "5"),
    (r"\boxed{1} and then \boxed{2}", "2"),
    (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{(-\infty, 2]}", r"(-\infty, 2]"),
    (r"\fbox{7}", "7"),
    (r"\boxed 9.", "9"),
    (r"\boxed\pi", r"\pi"),
    (r"\boxed{3} but cut off: \boxed{\frac{1", "3"),
    (r"\boxed{}", ""),
    (r"\boxed", None),
    ("none", None),
])  # fmt: skip
def test_what_is_in_the_last_box_has_its_braces_balanced(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(("text", "answer"), [
    (r"The answer is 3. \boxed{4}. The answer is 5.", "4"),
    ('```json\n{\n "reasoning": "7 + 8",\n "answer": "15"\n}\n```', "15"),
    ('{"reasoning": "the \\"answer\\": 3", "answer": "\\\\frac{1}{2}"}', r"\frac{1}{2}"),
    ('{"answer": "\\frac{1}{2}"}', r"\frac{1}{2}"),
    ('"answer": 12,', "12"),
    ('{"final_answer": "x"}', "x"),
    ('{"answer": "So, the answer is 10."}', "10"),
    ('{"answer": ""}', None),
    ("1 + 1 = <<1+1=2>>2\n#### 2", "2"),
    ("3 * 5 = 15\nA: 15", "15"),
    ("The answer is 15.", "15"),
    ("**Answer:** 15", "15"),
    ("The final answer to this question is **3.5**.\n\nI hope that helps.", "3.5"),
    ("the answer is 1, no, the answer is 2", "2"),
    ("A question without one.", None),
    ("", None),
])  # fmt: skip
def test_an_answer_is_stated_in_many_ways(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


def test_the_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(answers).attempted > 0 and doctest.testmod(answers).failed == 0
