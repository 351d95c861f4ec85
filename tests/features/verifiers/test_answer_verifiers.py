"""math_answer, final_number, exact_match and given_label against tables made by hand."""

import doctest
import random
from fractions import Fraction
from functools import partial
from typing import Any

import pytest

from features.texts.tasks import Response, Task
from features.verification import mathematics
from features.verification.verdict import Verdict
from features.verification.workers import Workers, build_verifier
from features.verifiers import final_number as final_number_module
from features.verifiers.exact_match import exact_match
from features.verifiers.final_number import final_number, last_number
from features.verifiers.math_answer import math_answer


def task(reference: Any) -> Task:
    return Task("q", "a query", [], reference)


@pytest.mark.parametrize(("reference", "answer", "label"), [
    ("5", "5", 1), ("5", "5.0", 1), ("5", "x = 5", 1), ("5", "6", 0), ("-5", "5", 0), ("5", "−5", 0), ("-5", "−5", 1),
    (r"\frac{1}{2}", "0.5", 1), (r"\frac{1}{2}", "1/2", 1), (r"\frac12", r"\dfrac{2}{4}", 1),
    (r"\frac{1}{2}", "2", 0),
    (r"\frac{3}{2}", "1 1/2", 1), ("1", "1 1/2", 0), ("1000", "1,000", 1), (r"10,\!000", "10000", 1),
    ("5", r"\$5", 1),
    ("10", r"10\$", 1),
    ("5", "5.", 1), ("5", "'5'", 1), ("5", "$5$", 1),
    (r"50\%", "50", 1), (r"90^\circ", "90", 1), ("47", "47 feet", 1), (r"6\text{ cm}^2", "6", 1),
    ("5120", "10 * 2^9", 1),
    (r"\sqrt{8}", r"2\sqrt{2}", 1), (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", 1), (r"2+\sqrt{3}", "2 + √3", 1),
    (r"2+\sqrt{3}", "sqrt(3) + 2", 1), ("8", "4√2 + 8", 0), (r"2\pi", "2pi", 1), (r"2\pi", "6.28", 0),
    ("(x+1)^2", "x^2 + 2x + 1", 1), ("2x+3", "3+2x", 1), ("2x+3", "2y+3", 0), ("y=2x+3", "y = 3 + 2x", 1),
    ("3+2i", "2i+3", 1), ("3+2i", "3-2i", 0), ("-2,5", "5, -2", 1), (r"\{5,-2\}", "-2, 5", 1), ("-2,5", "-2", 0),
    ("(1,2)", "(1, 2)", 1), ("(1,2)", "(2,1)", 0), ("[1,2]", "(1,2)", 0), (r"(-\infty,5)", r"(-\infty, 5]", 0),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", 1),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}", 0),
    (r"\text{Evelyn}", "Evelyn", 1), (r"\text{Evelyn}", "Angela", 0), (r"\text{even}", r"\text{odd}", 0),
    ("x<5", "5>x", 1),
    (r"\frac{1}{3}", "0.33", 0), (r"\frac{1}{3}", "0.3333333", 1),
])  # fmt: skip
def test_answers_are_equal_as_mathematics(reference: str, answer: str, label: int) -> None:
    verdict = math_answer(rf"Therefore it is $\boxed{{{answer}}}$.", task(reference))
    assert verdict.label == label


@pytest.mark.parametrize(("reference", "answer", "label"), [
    (r"1 - \frac{1}{\mathrm{e}}", "1-e^{-1}", 1), ("9500", "9 500", 1), ("9500", "9 500", 1), ("9500", "9~500", 1),
    (r"45^\circ", r"45 \text{ degrees}", 1), (r"45^\circ", r"45^{\circ}", 1), ("36", "36 USD", 1), ("36", "€36", 1),
    (r"\frac13", r"0.\overline{3}", 1), (r"\frac16", r"0.1\overline6", 1), (r"\frac{1}{7}", "0.142857142857...", 1),
    (r"\frac{1}{3}", r"0.\dot{3}", 1), (r"\emptyset", r"\varnothing", 1), (r"\emptyset", "∅", 1),
    (r"3\times10^8", "3e8", 1), (r"3\times10^8", "3E+8", 1), (r"3\times10^{-8}", "3e-8", 1), ("-5", "–5", 1),
    ("x^2", "x²", 1), ("x^{12}", "x¹²", 1), (r"\infty", "∞", 1), (r"\infty", "infinity", 1), (r"\frac12", "½", 1),
    (r"\frac32", "1½", 1), ("5", r"\color{red}5", 1), ("5", r"{\color{blue}5}", 1), ("5", r"\textcolor{red}{5}", 1),
    ("12", "12 cm", 1), ("12", "12 square units", 1), ("12", r"12\,\mathrm{cm}^2", 1), ("12", "12 km/h", 1),
    ("12", r"12\text{ meters per second}", 1), (r"\frac{1}{2}", r"\frac{1}{2} hours", 1),
    ("(2,5]", r"2 < x \le 5", 1), (r"[2,\infty)", r"x \geq 2", 1), (r"(-\infty,2)", "x<2", 1),
    (r"(-\infty,2)\cup(2,\infty)", r"x \neq 2", 1), (r"(-\infty,2)\cup(2,\infty)", "x≠2", 1),
    ("[2,5)", r"x \in [2,5)", 1), (r"x<3 \text{ or } x>5", r"(-\infty,3)\cup(5,\infty)", 1),
    (r"x<3 \text{ or } x>5", r"x>5 \text{ or } x<3", 1), (r"2\le x<5", "[2,5)", 1),
    (r"2 \le x < 5", r"x \ge 2 \text{ and } x < 5", 1), ("[2,5)", r"\{x : 2 \le x < 5\}", 1),
    ("52_8", r"52_{\text{eight}}", 1), ("2A_{16}", r"\text{2A}_{16}", 1), (r"\frac{1}{10^{30}}", "10^{-30}", 1),
    (r"\frac{1}{3\cdot 10^{20}}", "3.33333e-21", 1), (r"\sqrt2-1", r"\frac{1}{\sqrt2+1}", 1),
    ("0", r"\sin(\pi)", 1), ("0", r"\sqrt{2}+\sqrt{3}-\sqrt{5+2\sqrt{6}}", 1), (r"(\frac12,3)", "(0.5,3)", 1),
    (r"50\%", r"\frac12", 1), (r"50\%", "0.5", 1), (r"\{1,2\}", r"\{2,1\}", 1), (r"2\sqrt{3}", "2√3", 1),
    (r"2\pi", "2π", 1), ("(3,4)", "(3,4)", 1), ("y=3", "3", 1), ("5", r"\(5\)", 1), ("7", r"\approx 7", 1),
    ("1,234,567", "1 234 567", 1), (r"11,\! 111", "11111", 1), (r"6\frac12", "6 1/2", 1), ("x^2", "x**2", 1),
    (r"\sqrt{10}", "sqrt10", 1), ("2^{2006}", "2^{2006}", 1), (r"(-\infty,\infty)", r"\mathbb{R}", 1),
    ("12,34", "12, 34", 1), ("1,2,3", "1, 2, 3", 1), (r"\text{Monday}", "Monday", 1), (r"\frac{\pi}{6}", "π/6", 1),
    (r"x\in[-1,1]", "[-1,1]", 1), (r"\boxed{5}", "5", 1),
])  # fmt: skip
def test_notations_of_the_same_answer_are_equal(reference: str, answer: str, label: int) -> None:
    assert math_answer(rf"Therefore it is $\boxed{{{answer}}}$.", task(reference)).label == label


@pytest.mark.parametrize(("reference", "answer", "label"), [
    (r"\frac{1}{2004!}", r"\frac{1}{2005!}", 0), ("10^{-20}", r"2\cdot 10^{-20}", 0), ("0", "10^{-20}", 0),
    ("1e-7", "2e-7", 0), (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", 0), ("e^{-200}", "e^{-201}", 0),
    ("52_8", "52_9", 0), ("101_2", "101_3", 0), ("(3,4)", r"\{3,4\}", 0), (r"\{3,4\}", "(3,4)", 0),
    (r"(\frac{1}{10^{20}},1)", r"(\frac{2}{10^{20}},1)", 0), ("1+10^{-20}", "1", 0), ("9500", "9,50", 0),
    ("9500", "9 50", 0), (r"\frac13", "0.3", 0), ("[2,5)", "2 < x < 5", 0), ("(2,5)", r"x<2 \text{ or } x>5", 0),
    ("x<5", "y<5", 0), ("36", "36x", 0), (r"45^\circ", "46°", 0), (r"\emptyset", r"\{0\}", 0), ("3e8", "3e7", 0),
    ("-5", "5", 0), (r"\frac13", r"0.\overline{4}", 0), ("x^2", "x^3", 0), (r"\frac12", "⅓", 0), ("2.5", "25", 0),
    ("5", r"5 \text{ or } 6", 0),
    (r"\begin{pmatrix}10^{-20}\\1\end{pmatrix}", r"\begin{pmatrix}10^{-21}\\1\end{pmatrix}", 0),
    ("1.00000000000000000001", "1", 0),
])  # fmt: skip
def test_answers_that_look_alike_differ(reference: str, answer: str, label: int) -> None:
    assert math_answer(rf"Therefore it is $\boxed{{{answer}}}$.", task(reference)).label == label


def test_an_exclamation_mark_is_joy_or_a_factorial() -> None:
    assert math_answer("The answer is 12!", task("12")) == Verdict(1.0, "", "12")
    assert math_answer("The answer is 3!", task("6")) == Verdict(1.0, "", "6")
    assert math_answer(r"\boxed{5!}", task("5")).label == 0
    assert math_answer(r"\boxed{(n-1)!}", task("n!")).label == 0


def test_tiny_answers_have_different_names_for_majority_votes() -> None:
    names = [
        math_answer(rf"\boxed{{{each}}}", task("7")).answer for each in (r"\frac{1}{2004!}", r"\frac{1}{2006!}", "0")
    ]
    assert len(set(names)) == 3


@pytest.mark.parametrize(("reference", "answer", "label"), [
    ("C", "C", 1), ("C", r"\text{C}", 1), ("C", "(C)", 1), ("C", r"\text{(C)}", 1), ("C", "C) 12", 1),
    ("C", "(C) 12", 1),
    ("C", "C. 12", 1), ("C", "B) 12", 0), (r"\text{(C)}", "C", 1), ("(C)", "D", 0), ("C", "12", 0), ("C", "Cat", 0),
])  # fmt: skip
def test_options_are_their_letters(reference: str, answer: str, label: int) -> None:
    assert math_answer(rf"The answer is {answer}", task(reference)).label == label


def test_random_numbers_are_equal_as_fractions_are() -> None:
    draw = random.Random(0)
    for _ in range(60):
        one, other = (Fraction(draw.randint(-6, 6), draw.randint(1, 4)) for _ in range(2))
        written = rf"\frac{{{one.numerator * 3}}}{{{one.denominator * 3}}}"
        assert math_answer(rf"\boxed{{{written}}}", task(str(other))).label == float(one == other)


def test_equal_answers_have_one_name_for_majority_votes() -> None:
    written = [r"\frac{1}{2}", "0.5", "2/4", "x = 0.5", r"\frac{\sqrt{4}}{4}"]
    names = {math_answer(rf"\boxed{{{each}}}", task("7")).answer for each in written}
    assert names == {"0.5"}
    assert {math_answer(rf"\boxed{{{each}}}", task("7")).answer for each in ("x+1", "1+x")} == {"x + 1"}


@pytest.mark.parametrize(("response", "reference", "verdict"), [
    ("I do not know.", "5", Verdict(0.0, "no answer", None)),
    ("", "5", Verdict(0.0, "no answer", None)),
    ("It may be 5.", "5", Verdict(0.0, "no answer", None)),
    (r"\boxed{\frac{1}{}", "5", Verdict(0.0, "no answer", None)),
    (r"\boxed{It cannot be told.}", "5", Verdict(0.0, "answer cannot be parsed", "It cannot be told.")),
    (r"\boxed{5}", None, Verdict(None, "no reference answer")),
    (r"\boxed{5}", {"tests": []}, Verdict(None, "reference cannot be parsed")),
])  # fmt: skip
def test_what_cannot_be_compared_says_so(response: str, reference: Any, verdict: Verdict) -> None:
    assert math_answer(response, task(reference)) == verdict


def test_the_last_expression_counts_where_it_is_asked_for() -> None:
    assert math_answer("We get $x^2 = 4$ and then $7$.", task("7"), last_expression=True).label == 1
    assert math_answer("Nothing at all.", task("7"), last_expression=True) == Verdict(0.0, "no answer", None)


@pytest.mark.slow
def test_an_answer_that_takes_forever_is_stopped_and_does_not_count_as_wrong() -> None:
    verifier = build_verifier("math_answer", Workers(1, timeout=6.0))
    boxes = [r"\boxed{5}", r"\boxed{9^{9^{9^{9^{9}}}}+x}", r"\boxed{6}"]
    found = list(verifier.verify((task("9^{9^{9}}+x") if "9" in box else task("5"), box) for box in boxes))
    assert [verdict.label for verdict in found] == [1, None, 0]
    assert found[1].reason in ("timed out", "out of memory") or "Error" in found[1].reason
    assert set(verifier.settings()["packages"]) == {"math-verify", "latex2sympy2_extended", "sympy"}


@pytest.mark.parametrize(("text", "number"), [
    ("18", "18"), ("-18", "-18"), ("−18", "-18"), ("$1,250.50 each", "1250.5"), ("1,000,000", "1000000"),
    (".5", "1/2"),
    ("18.", "18"), ("18.00", "18"), ("3/4 of it", "3/4"), ("10-3 = 7", "7"), ("it is 5-3", "3"), ("-$5", "-5"),
    ("2 and 3", "3"), ("1,00", "0"), ("1,00,000", "100000"), ("2 1/2", "5/2"), ("1.5e3", "1500"),
    ("-2 1/2 cups", "-5/2"),
    ("1e-2", "1/100"), ("–5", "-5"), ("3–5", "5"), (r"1{,}000", "1000"), (r"1,\!000", "1000"), (r"1\,000", "1000"),
    (r"\frac{1}{2}", "1/2"), (r"\dfrac12", "1/2"), (r"7 m^2", "7"), (r"25 \text{ cm}^{2}", "25"),
    (r"-3\frac{1}{4}", "-13/4"), (r"-\frac{12}{5}", "-12/5"),
    ("20%", "20"), ("x2", "2"), ("3/0", None), ("none", None), ("", None),
])  # fmt: skip
def test_the_last_number_is_read_exactly(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Fraction(number))


@pytest.mark.parametrize(("response", "reference", "label"), [
    ("9 * 2 = <<9*2=18>>18\nA: 18", "18", 1), ("She makes $18 every day.", "18", 1), ("A: 18\nCheck: 3", "18", 1),
    (r"\boxed{18.0}", "18", 1), ("#### 1,800", "1800", 1), ("A: 17", "18", 0), ("The answer is none of 18.", "18", 1),
    ("The answer is 18 because 3 are eaten", "18", 1), ("The answer is 5\n\n18", "18", 0),
    ("The answer is $18 for 3 days.", "18", 1), ("The answer is 9 * 2 = 18.", "18", 1),
    ("The answer is 9 + 9, or 18", "18", 1), ("The answer is 12 apples (3 bags of 4).", "12", 1),
    (r"**Answer:** 7 m^2", "7", 1), (r"\boxed{25 \text{ cm}^2}", "25", 1), (r"\boxed{\$18}", "18", 1),
    (r"The answer is \( 6 \times 3 = 18 \).", "18", 1), ("The answer is **18**, not 3.", "18", 1),
])  # fmt: skip
def test_the_number_that_is_stated_counts_else_the_last(response: str, reference: str, label: int) -> None:
    assert final_number(response, task(reference)).label == label


@pytest.mark.parametrize("response", [
    '{"reasoning": "480 in all", "answer": "unknown"}', "We get 480.\n#### cannot be determined",
    r"480 \boxed{\text{none}}",
    "We get 480. The answer cannot be determined.", "480 in all. The answer is unknown.",
    "<answer>not enough information</answer> 480",
    "480?\nA: impossible to say", "It may be 480, but it can't be determined.",
    "480. The answer is: there is no solution.",
    "480\n### Answer\n\nUndefined", "480. The answer is none of these.",
    '{"reasoning": "480", "answer": "insufficient data"}',
])  # fmt: skip
def test_a_stated_answer_without_a_number_is_wrong(response: str) -> None:
    verdict = final_number(response, task("480"))
    assert verdict.label == 0 and verdict.reason == "answer is no number"


@pytest.mark.parametrize(("response", "reference", "label"), [
    ("#### - 3", "-3", 1), ("#### - 3", "3", 0), ("The answer is − 3.", "-3", 1), (r"\boxed{- 3}", "-3", 1),
    ("#### 5 - 3", "-3", 0),
    ("#### 5 - 3 = 2", "2", 1), ("#### -$ 3", "-3", 1), (r"A: \$ 3", "3", 1), ("#### 70 000", "70000", 1),
    ("#### 1 070 000 km", "1070000", 1),
    ("The answer is 70 000.", "70000", 1), ("The answer is 70 000.", "70", 0), ("#### 7", "7 000", 0),
    ("#### 7000", "7 000", 1),
    ("#### 70 0000", "70", 1), ("#### 5 100/2", "55", 1), ("#### €70 000", "70000", 1),
    ("The answer is as follows:\n\n3 + 4 = 7", "7", 1),
    ("The answer is the sum of both. 3 + 4 = 7", "7", 1), ("#### 18\n\nQuestion: And?\n#### 7", "18", 1),
    ("A: 18\n\nQ: And?\nA: 7", "7", 0), ("The answer is 18.<|im_end|>\n<|im_start|>user\n7", "18", 1),
    ("It is 18.</s>7", "18", 1),
    ("It is 70 000 in all.", "70000", 1), ("Of 5 100 dollar bills 3 are left.", "3", 1),
    (r"\boxed{18}\n\nProblem: And?\nSo \boxed{7}".replace("\\n", "\n"), "18", 1),
    ("18 in all.\n#### eighteen", "18", 0),
])  # fmt: skip
def test_numbers_with_blanks_and_next_questions(response: str, reference: str, label: int) -> None:
    assert final_number(response, task(reference)).label == label


def test_numbers_that_are_missing_are_told_apart() -> None:
    assert final_number("none at all", task("18")) == Verdict(0.0, "no number")
    assert final_number("18 in passing", task("18"), stated=True) == Verdict(0.0, "no number")
    assert final_number("A: 18", task(None)) == Verdict(None, "no reference number")
    assert final_number("A: 18.50", task("18.5")) == Verdict(1.0, "", "37/2")


def test_a_number_of_many_digits_is_wrong_or_right_like_any_other() -> None:
    endless = "3" * 5000
    assert final_number(f"A: {endless}", task("3")).label == 0
    assert final_number(f"A: {'0' * 5000}18", task("18")) == Verdict(1.0, "", "18")
    assert final_number(f"A: 1/{endless}", task("18")).label == 0
    same, other = (final_number(f"A: {number}", task("18")).answer for number in (f"{endless}.0", f"{endless}1"))
    assert same == final_number(f"A: {endless}", task("18")).answer != other


@pytest.mark.parametrize("verifier", [math_answer, final_number, partial(exact_match, stated=True)])
def test_what_a_model_thought_is_not_its_answer(verifier: Any) -> None:
    thought = r"<think>Is it \boxed{18}? The answer is 18.</think>"
    assert verifier(rf"{thought} The answer is 7.", task("18")).label == 0
    assert verifier(rf"{thought} The answer is 7.", task("7")).label == 1
    assert verifier(r"Is it \boxed{18}?</think>\boxed{7}", task("7")).label == 1
    # It had no room left to answer.
    assert verifier(thought.removesuffix("</think>"), task("18")).label == 0


def test_a_text_matches_but_for_blanks() -> None:
    assert exact_match("<think>a b, perhaps</think> a b", task("a b")) == Verdict(1.0, "", "a b")
    assert exact_match(" a  b\n", task("a b")) == Verdict(1.0, "", "a b")
    assert exact_match("A b", task("a b")).label == 0
    assert exact_match("A b", task("a b"), ignore_case=True) == Verdict(1.0, "", "a b")
    assert exact_match("c", task(["a b", "c"])).label == 1
    assert exact_match("The answer is Rome.", task("Rome"), stated=True).label == 1
    assert exact_match("Perhaps.", task("Rome"), stated=True) == Verdict(0.0, "no answer")
    assert exact_match("a", task(None)) == exact_match("a", task([])) == Verdict(None, "no reference text")


@pytest.mark.parametrize("response", [
    "The answer is Rome.", 'The answer is "Rome".', "<answer>Rome</answer>", r"\boxed{\text{Rome}}",
    "### Answer\n\nRome",
    "{'answer': 'Rome'}", '{"reasoning": "Paris", "answer": "Rome"}', "The answer is Rome, not Paris.",
    "**Answer:** **Rome**",
    "Answer: `Rome`", "#### Rome\n", "The answer is $Rome$.", "Die Antwort ist Rome.",
    "The answer is not Paris but Rome.",
    "The answer is Paris. No, the answer is Rome.",
    "The answer is Rome.\n\nQuestion: And in France?\nThe answer is Paris.",
])  # fmt: skip
def test_a_stated_text_is_the_text_without_what_is_around_it(response: str) -> None:
    assert exact_match(response, task("Rome"), stated=True) == Verdict(1.0, "", "Rome")
    assert exact_match(response, task("Paris"), stated=True).label == 0
    assert exact_match(response, task([r"\text{Rome}."]), stated=True).label == 1


def test_given_labels_are_found_by_the_responses_text() -> None:
    responses = [("a", 1.0), ("b", 0.0), ("b ", 0.0), ("c", 1.0), ("c", 0.0), ("d", None), ("e", 1.0), ("e", None)]
    recorded = Task("q", "a query", [], responses=[Response(str(n), *each) for n, each in enumerate(responses)])
    found = list(build_verifier("given_label").verify((recorded, text) for text in "abcdef"))
    assert [verdict.label for verdict in found] == [1, 0, None, None, None, None]
    reasons = [
        "",
        "",
        "labels contradict each other",
        "no label given",
        "labels contradict each other",
        "no label given",
    ]
    assert [verdict.reason for verdict in found] == reasons


@pytest.mark.parametrize("module", [mathematics, final_number_module])
def test_the_examples_in_the_documentation_hold(module: Any) -> None:
    assert doctest.testmod(module).attempted > 0 and doctest.testmod(module).failed == 0


@pytest.mark.parametrize(("reference", "answers"), [
    ("12", ["12 people", r"12~\text{cm}", r"\text{12 cm}", r"12\frac{\text{m}}{\text{s}}", "12 kWh", "１２", "12 個",
            "12개", "12 яблок", r"\text{The answer is 12}", r"\text{Answer: }12", "**12**", "`12`", "$12.$",
            "=12", "12=x"]),
    (r"90^\circ", [r"90\degree", "90^o", r"90^{o}"]),
    (r"\frac{1}{3}", ["0.(3)", r"33\frac{1}{3}\%"]), (r"\frac16", ["0.1(6)"]),
    (r"\frac{41}{333}", [r"0.\dot{1}2\dot{3}", r"0.\dot{1}\dot{2}\dot{3}", "0.(123)"]),
    ("70000", [r"70{\,}000", r"70\thinspace000", "70'000", "70_000", r"70\text{,}000"]),
    (r"\$5.50", [r"\text{\$}5.50", r"US\$5.50"]), ("-3", ["negative 3", "minus 3"]), ("2+3i", ["2+3 i", r"2+3\,i"]),
    ("i", [r"\imath"]), (r"\emptyset", [r"\{\,\}"]), (r"-\infty", [r"-\text{infinity}", "negative infinity"]),
    (r"(-\infty,3)", [r"x\lt 3", r"\{x | x<3\}", r"]-\infty,3[", r"\{x\in\mathbb{R}:x<3\}", r"\text{all } x < 3",
                      r"\left\{x \in \mathbb{R} \mid x < 3\right\}", r"\big(-\infty,3\big)"]),
    ("[1,4]", ["[1;4]", r"1\le x\le4"]), ("(1,4]", ["]1,4]", "1<x\\le4"]),
    (r"(-\infty,-2)\cup(2,\infty)", [r"(-\infty,-2) \text{ or } (2,\infty)", r"\{x: x<-2 \text{ or } x>2\}",
                                     r"(-\infty,-2) U (2,\infty)", r"(-\infty,-2)\bigcup(2,\infty)",
                                     r"(-\infty,-2) \text{ and } (2,\infty)", r"]-\infty,-2[\cup]2,\infty["]),
    (r"\mathbb{R}\setminus\{1\}", [r"x\ne1", r"\mathbb{R}-\{1\}"]), (r"(-\infty,\infty)", [r"\text{all real numbers}"]),
    ("52_8", ["(52)_8", "52 base 8", r"52\text{ (base 8)}"]), ("101_2", ["(101)_{2}"]),
    ("(3,4)", [r"\big(3,4\big)", "P(3,4)"]), ("3:4", [r"3 \text{ to } 4", "3 to 4"]),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", [r"\begin{pmatrix} 1 & 2 \\[2pt] 3 & 4 \end{pmatrix}"]),
    (r"\text{(B)}", [r"\text{Option B}", "**B**", r"\mathbf{(B)}", "B)", "option (B)"]),
    (r"\ln 2", [r"\log_e 2", r"\operatorname{ln} 2", "ln 2", "ln(2)"]),
    (r"\sin x", ["sin x", "sin(x)", r"\mathrm{sin}(x)", r"\operatorname{sin} x"]),
    (r"\binom{10}{3}", ["C(10,3)", "{}_{10}C_3", "^{10}C_3"]), (r"\sqrt{2}", ["2^{0.5}"]),
    (r"\sqrt[3]{5}", ["∛5", r"\sqrt[3]5", "cbrt(5)"]), ("5", [r"\text{Area} = 5 \text{ cm}^2"]),
    ("5", ["5 €", "5¢", r"\underline{5}", r"\bm{5}", r"\large 5", r"5\pmod{20}", "5 m³", "5 N"]),
    ("5", [r"5^\circ\text{C}", "5°F"]),
    (r"6.02\times10^{23}", ["602000000000000000000000", "6.02e23"]), (r"1.5\times10^{-3}", ["1.5 × 10^-3"]),
    ("70000", ["70 thousand", r"70\text{ thousand}", r"\$70 thousand", "70 thousand dollars"]),
    ("1000000", ["1 million"]),
    ("2500000", ["2.5 million", r"2.5\text{ million dollars}"]), (r"\frac34", ["\frac{3}{4}", r"\\frac{3}{4}"]),
    (r"\text{red}", ["\text{red}"]), (r"\beta", ["\beta"]), (r"1, 2, \ldots, n", [r"1,2,\ldots,n"]),
    (r"\log_2 3", ["log_2(3)"]), (r"\sin^2 x", ["sin^2(x)"]), ("True", ["true", r"\text{True}"]),
    ("3+4i", [r"3+4\cdot i"]),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", [r"\begin{pmatrix} 1 \ 2 \end{pmatrix}"]), ("1234.56", ["1.234,56"]),
    (r"(-\infty,0]\cup[2,\infty)", [r"(-\infty;0]\cup[2;\infty)", "x <= 0 or x >= 2"]),
    ("6:30", ["6:30 p.m.", r"6:30\text{ AM}"]),
    (r"6:30\text{ p.m.}", ["6:30 PM", "6:30"]), ("2:3", [r"2\colon 3"]), ("(1,2),(3,4)", [r"\{(1,2),(3,4)\}"]),
    (r"\{(1,2),(3,4)\}", ["(3,4),(1,2)"]), (r"\text{no solution}", ["no solution."]),
    (r"1.23\times10^5", ["1.23 x 10^5"]),
    (r"\$12.50", ["USD 12.50"]), ("12", [r"\textbf{(C)}\ 12", r"\text{(C) }12", "C) 12"]),
    (r"\text{No}", ["No.", r"\text{No.}"]), (r"\text{A, C}", ["A,C"]), (r"12\pi", [r"12\pi cm^2"]),
])  # fmt: skip
def test_more_notations_of_the_same_answer_are_equal(reference: str, answers: list[str]) -> None:
    labels = {each: math_answer(rf"Therefore it is $\boxed{{{each}}}$.", task(reference)).label for each in answers}
    assert labels == dict.fromkeys(answers, 1.0)


@pytest.mark.parametrize(("reference", "answers"), [
    ("12", ["12 x", "12 sin x", "12 thousand", "12 or 13", "12 dozen", "12 times 3", "12 and a half", "12 万"]),
    (r"6.02\times10^{23}", ["6.02e22", "602000000000000000000001"]), ("3", ["3 n", "3N", "3 m^2"]),
    ("70", ["70 thousand"]), ("7000", ["7 hundred"]), ("2.5", [r"2.5\text{ million}"]), ("2021", [r"\pm 2021"]),
    ("12", ["1 2"]),
    (r"1, 2, \ldots, n", [r"1,3,5,\ldots,2n-1"]), (r"6:30\text{ p.m.}", ["6:30 a.m.", "5:30 p.m."]), ("ABCD", ["ABDC"]),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", [r"\begin{pmatrix} 2 \ 1 \end{pmatrix}"]),
    ("(1,2),(3,4)", [r"\{(1,2),(3,5)\}"]),
    ("3", ["0.(3)", "3 over 4", "3 million"]), (r"\frac{1}{3}", [r"0.\overline{31}", r"0.\dot{3}\dot{1}"]),
    ("(1,4)", ["]1,4]", "[1,4[", "[1;4]"]), ("(3,4)", ["P(4,3)", r"\{3,4\}"]), ("52_8", ["52 base 9", "(52)_9"]),
    (r"(-\infty,3)", [r"\{x | x\le3\}", r"]-\infty,3]", r"x\gt 3"]), ("x^2", ["x^{0.5}"]), ("C(3,4)", ["(4,3)"]),
    (r"\mathbb{R}\setminus\{1\}", [r"x\ne2", r"\mathbb{R}-\{2\}"]), ("70000", ["70'00", "7_000"]), ("B", ["option C"]),
])  # fmt: skip
def test_more_answers_that_look_alike_differ(reference: str, answers: list[str]) -> None:
    labels = {each: math_answer(rf"Therefore it is $\boxed{{{each}}}$.", task(reference)).label for each in answers}
    assert labels == dict.fromkeys(answers, 0.0)


@pytest.mark.parametrize("response", [
    "__Answer:__ 12", "<ans>12</ans>", "<result>12</result>", "<answer>**12**</answer>", "#### **12**", "12", "$12$.",
    "The answer is, therefore, 12.", "The answer is 12 (not 13).", "The answer is 12; we can check: 12 - 5 = 7.",
    "The answer is 12 — that is, 5 + 7.", "The answer is `12`.", "The answer is **12**!", "**12** is the answer.",
    "12 is the final answer", "So we have 12 as our final answer.", "The answer is <b>12</b>.", r"\framebox{12}",
    "答えは 12 個です。", "Ответом является 12.", "Svaret är 12.", "उत्तर 12 है।", "Jawabannya adalah 12.",
    "Odpověď: 12",
    "Η απάντηση είναι 12.", "The correct option is 12", '{"answer": ["12"]}', "The answer is: 12 marbles.",
    "The answer isn't 13; it's 12.", "The answer isn't 13 but 12.", "The answer is not 13. It is 12.",
    "The answer is 12 and not 13.", '{"result": 12}', '{"steps": ["5 + 7"], "result": "12"}', '{"final_result": 12}',
    '{"ans": 12, "unit": "apples"}', '{"reasoning": "\\\\boxed{13}", "result": "12"}',
    '{"answer": {"value": 12, "unit": "apples"}}', '```json\n{"value": 12}\n```', "*Answer*: 12", "Answer - 12",
    "Answer → 12",
    "Final Answer => 12", "Answer ≈ 12", "ANS: 12", "Ans. 12", "Step 1: 13\nResult: 12", "| Answer | 12 |",
    "Result: 5 + 7 = 12",
    "Résultat : 12", "答：12",
    "<final>12</final>", "<solution>12</solution>", "\boxed{12}", "boxed{12}", "The answer works out to 12.",
    "####\n12",
    "The answer ends up being 12.", "giving us an answer of 12.", "We arrive at the answer 12.",
    "Answer (in dollars): 12",
    "Final answer (rounded): 12", "The answer is a total of 12 apples.", "The answer is still only 12.",
    "✅ Final Answer: **12**",
    "The answer is determined to be 12.", '{"value": 13}\n\nThe answer is 12.',
    "The answer is 12, since we choose A = 3.",
    "The answer is 12.\n\nResult: 13", "$12$ (twelve)", "The answer is $12$ (twelve).",
])  # fmt: skip
def test_more_ways_to_state_an_answer(response: str) -> None:
    assert math_answer(response, task("12")).label == final_number(response, task("12")).label == 1
    assert math_answer(response, task("13")).label == final_number(response, task("13")).label == 0


BLANKS = " " * 3000


@pytest.mark.parametrize("response", [
    f"####{BLANKS}12", f"Answer:{BLANKS}\n{BLANKS}12", f"Result: 12{BLANKS}apples", f"<output>{BLANKS}12</output>",
])  # fmt: skip
def test_a_run_of_blanks_is_not_tried_in_all_ways_to_part_it(response: str) -> None:
    # In all ways to part it into two or three, this would take minutes.
    assert math_answer(response, task("12")).label == final_number(response, task("12")).label == 1


@pytest.mark.parametrize("response", [
    "B", "(B)", "B.", "**B**", "Option B is correct.", "The correct choice is B.", "The correct option is (B).",
    "The answer is option B.", "The correct answer is option B) 12", "Therefore, B is the answer.", "The answer is [B]",
    r"\boxed{\textbf{(B)}\ 12}", '{"answer": "B. 12"}', "The correct answer is **B) 12**.", "<answer>(B)</answer>",
    "Answer: B - the sum", "So B is correct.", "The answer is (b).", r"\boxed{(b)}", "故选：B", "答案选B。",
    "Answer: {B}",
    "La respuesta correcta es la opción B.", "I choose B.", "The answer is **B** (12).", "The answer is B, i.e., 12",
    '{"choice": "B"}',
])  # fmt: skip
def test_letters_of_options_count_with_what_is_around_them(response: str) -> None:
    for verify in (math_answer, partial(exact_match, stated=True)):
        assert verify(response, task("B")).label == 1
        assert verify(response, task("A")).label == 0


@pytest.mark.parametrize("response", [
    "The answer is a banana.", "The answer is A or B.", "Both A and B", r"\boxed{A, B}", "Answer: Bob", "Answer: B, C",
    "B is wrong; the answer is A.", "The answer isn't B.", "The answer is B-complex.",
    "我们选择 B 作为例子, 所以答案是 A",
])  # fmt: skip
def test_words_around_a_letter_do_not_make_it_the_chosen_option(response: str) -> None:
    for verify in (math_answer, partial(exact_match, stated=True)):
        assert verify(response, task("B")).label == 0


def test_the_last_formula_of_an_answer_in_a_sentence_counts() -> None:
    answer = '{"answer": "Now $a = -2$ and $d = 5$. So the sum is $a + d - 3 = -2 + 5 - 3 = 0$."}'
    assert math_answer(answer, task("0")).label == 1


def test_a_whole_line_may_be_the_stated_text() -> None:
    assert exact_match("Rome.", task("Rome"), stated=True) == Verdict(1.0, "", "Rome")
    assert exact_match("In Rome.", task("Rome"), stated=True) == Verdict(0.0, "no answer")


@pytest.mark.parametrize("response", [
    "The answer cannot be determined from 480.", '{"reasoning": "480", "answer": null}', "480\n<answer></answer>",
    '{"reasoning": "480", "answer": ""}', '{"answer": "", "reasoning": "the answer is 480"}', "480, so \\boxed{}",
    "480 is a guess.\nAnswer: I don't know", "480\n答案是无法确定。", "480\nLa réponse est indéterminée.",
    "480 in all.\nThere isn't enough information to answer.", "480 in all.\nWe do not have enough information.",
    "480 in all. I'm unable to determine the number.", "480\nAnswer: It depends.",
    "480. The answer depends on the price.",
    "480\nAnswer: more information is needed", "480\nAnswer: ?", '480\n{"result": null}',
    "480, but we cannot find the answer.",
    "480?\nTherefore, there is no answer.", "480\nAnswer: -",
    "480\nDie Antwort ist unbekannt.", "480\nThe answer is not a number", "480\nОтвет: неизвестно",
])  # fmt: skip
def test_no_number_is_taken_where_the_answer_is_that_there_is_none(response: str) -> None:
    assert final_number(response, task("480")).label == 0


@pytest.mark.parametrize(("reference", "answer"), [
    ("-3", "The answer is negative 3"), ("-3", "The answer is minus 3."), ("70000", "#### 70'000"), ("0.5", "#### ½"),
    ("70000", "#### 70_000"), ("1.5", "#### 1½"), ("18", "The answer is 18 = 9*2"), ("18", "The answer is 9*2 = 18"),
    ("36", "The answer is 36 = 2 * 18 = 36"), ("3", "The answer is 5 minus 2 = 3"),
    ("18", '{"answer": ""}\nThe answer is 18'), ("70000", "The answer is 70 thousand."),
    ("70000", "It costs 70 thousand dollars."),
    ("2500000", "A: $2.5 million"), ("70000", "#### $70K"), ("1500000", "Answer: $1.5M"), ("5", "He runs the 5K."),
    ("70000", r"\boxed{70 \text{ thousand}}"), ("3", "She needs 3 dozen eggs."),
    ("2", "He has 2 hundred-dollar bills."),
    ("1200000000", "1.2 billion people"), ("1234.56", "#### 1.234,56"), ("12", "The answer is 10 + 2, which is 12."),
    ("12", "The answer is 12, which is 10 + 2."), ("15", "The answer is 3(5) = 15"), ("15", "The answer is 15 = 3(5)"),
    ("15", "A: 3 · 5 = 15"), ("15", "A: 20% of 75 is 15"), ("40", "Answer: 40% of the class"),
    ("15", "A: 12 apples + 3 apples = 15 apples"),
    ("15", "A: 60 minutes - 45 minutes = 15 minutes"), ("15", '{"result": 15, "unit": "apples in 3 bags"}'),
    ("5", "Answer: 5 weeks = 35 days"),
    ("480", "We don't have enough information about Bob, but Tom has 480."),
    ("480", "We cannot find it directly. 400, then 80, so 480."),
    ("12", "The answer is 12 apples left, 5 + 3 = 8 eaten."), ("70000", "Result: 500\nSo she has 70000 left."),
])  # fmt: skip
def test_more_numbers_are_read_as_they_are_meant(reference: str, answer: str) -> None:
    assert final_number(answer, task(reference)).label == 1


@pytest.mark.parametrize("after", [
    "### Question\nTom has 5. How many?\n#### 5", "**Question 2:** Bob has 7.\n#### 7", "Problem 2: x\nAnswer: 7",
    "[INST] Next one [/INST] The answer is 9", "Question 2\nJane has 4.\n#### 4", "Exercise 2: 5?\nThe answer is 5",
    "问题：另一个？\n答案：5", "Problem #2\nBla\n#### 7", "Example 2: Bla\n\\boxed{7}", "## Problem 3\nBla\n#### 7",
    "Input: How many?\nOutput: The answer is 7.", "USER: And 7?\nASSISTANT: The answer is 7.",
    "Q. How many?\nA. The answer is 7.",
    "Next question: Bob has 3. The answer is 7.", "**Next Problem**\n\nBob has 3.\n\nThe answer is 7.",
    "## Another example\nThe answer is 7.",
    "Let's try another problem: Bob has 3.\nThe answer is 7.", "<question>And?</question>\nThe answer is 7.",
])  # fmt: skip
def test_a_heading_with_a_number_begins_a_next_question(after: str) -> None:
    response = f"9 * 2 = 18\n#### 18\n\n{after}"
    assert final_number(response, task("18")).label == math_answer(response, task("18")).label == 1


@pytest.mark.parametrize("response", [
    "Question 1: How many eggs?\nAnswer: 9\n\nQuestion 2: How much?\nAnswer: 18",
    "**Part 1:** 9 eggs. The answer is 9.\n\n**Question 2:** How much?\n\nThe answer is 18.",
    "Problem 2 is easy.\nThe answer is 18.", "Step 1: 9\nStep 2: 9 * 2\n#### 18",
])  # fmt: skip
def test_the_parts_of_one_question_are_judged_by_the_last(response: str) -> None:
    assert final_number(response, task("18")).label == math_answer(response, task("18")).label == 1
