"""The answer that a text states."""

import doctest
from typing import Any

import pytest

from features.verification import answers, phrases
from features.verification.answers import first_answer, last_boxed, stated_answer, without_thoughts


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
    (r"\boxed{5}\boxed{}", "5"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed", None),
    ("none", None),
])  # fmt: skip
def test_what_is_in_the_last_box_has_its_braces_balanced(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(("text", "answer"), [
    (r"The answer is 3. \boxed{4}. The answer is the sum of both.", "4"),
    (r"The answer is 3. \boxed{4}. The answer is 5.", "5"),
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


@pytest.mark.parametrize(("text", "answer"), [
    ("<think>11?</think><answer> 12 </answer>", "12"),
    ("<answer>11</answer> No. <answer>12", "12"),
    (r"<answer>So it is $\boxed{12}$.</answer>", "12"),
    ("<answer>The answer is 12.</answer>", "12"),
    ("<final_answer>12</final_answer>", "12"),
    ("[ANSWER]12[/ANSWER]", "12"),
    ("So <|begin_of_box|>12<|end_of_box|>.", "12"),
    (r"First \boxed{11}. <answer>12</answer>", "12"),
    (r"<answer>11</answer>, that is, \boxed{12}", "12"),
])  # fmt: skip
def test_an_answer_stands_in_tags(text: str, answer: str) -> None:
    assert stated_answer(without_thoughts(text)) == answer


@pytest.mark.parametrize(("text", "answer"), [
    ("### Final Answer\n\n12", "12"), ("## Answer:\n12", "12"), ("**Final Answer**\n\n$12$", "$12$"),
    ("**Answer:**\n12\n\nIt is even.", "12"), ("Final answer\n\\[ 12 \\]", "\\[ 12 \\]"),
    ("### 4. Final Answer\n**12**", "12"),
    ("**The final answer:**\n- 12", "12"), ("### Answer\nThe answer is 12.", "12"),
    ("Answer\n\n\\[\n\\boxed{12}\n\\]", "12"),
    ("#### Answer\n\nRome", "Rome"), ("The answer is\n\n12", "12"),
    ("The final answer is:\n\n$$\n12\n$$", "$$\n12\n$$"),
    ("Answer:\nLet us see. 3 + 4 = 7, and\n5 + 7 = 12. So the answer is 12.", "12"),
    ("Answer:\nLet us see what they have, which is more than what one has at first: 3 + 4 = 7.", None),
])  # fmt: skip
def test_an_answer_stands_under_a_heading_or_on_the_next_line(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(("text", "answer"), [
    ("the answer would be 12", "12"), ("The answer should be 12.", "12"), ("The answer comes to 12.", "12"),
    ("The answer is approximately 12", "12"), ("The answer is therefore about 12.", "12"), ("The answer: ≈ 12", "12"),
    ("The answer is 12, not 13.", "12"), ("The answer is 12 rather than 13.", "12"),
    ("The answer is 12 instead of 13.", "12"),
    ("The answer is not 13 but 12.", "12"), ("The answer is not 13, it's 12.", "12"),
    ("The answer is 12, so they win.", "12"),
    ("The answer is 12 because 3 * 4 = 12.", "12"), ("The answer is 12. It is not 13.", "12"), ("Answer = 12", "12"),
    ("The answer is 12. Hence 13 is not the answer.", "12"), ("The answer is 12. The answer is not 13.", "12"),
    ("Final Answer: The final answer is $12$. I hope it is correct.", "$12$"), ("\\text{Answer: }12", "12"),
    ("ANSWER: 12", "12"),
    ("The answer is \\[12\\]", "\\[12\\]"), ("The answer is \\[\n12\n\\].", "\\[\n12\n\\]"),
    ("The answer is 4! / 2 = 12.", "4! / 2 = 12"), ("The answer is $12$ or $13$.", "$12$ or $13$"),
    ("The answer cannot be determined.", "cannot be determined"),
    ("We get 12, so it can't be determined.", "can't be determined"),
    ("The value is unknown. Call it x. Then x = 12.", None), ("The answer is probably 12.", "12"),
    ("We get 12. We cannot determine the answer.", "We cannot determine"), ("La réponse est donc 12.", "12"),
    ("There is not enough information.", "not enough information"), ("We can't say yet, but 3 * 4 = 12.", None),
])  # fmt: skip
def test_an_answer_is_said_in_many_words(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize("text", [
    "答案是 12", "答案：12", "所以最终答案为：12。", "答えは12です。", "答え：12", "정답은 12입니다.", "답: 12",
    "Die Antwort ist 12.",
    "Die endgültige Antwort lautet: 12", "La réponse est 12.", "La réponse finale est : 12", "La respuesta es 12.",
    "Respuesta: 12", "La risposta è 12.", "A resposta final é 12.", "Ответ: 12", "Ответ — 12.", "Đáp án là 12.",
    "คำตอบคือ 12",
    "Jibu ni 12.", "উত্তর হল 12।", "సమాధానం 12.", "उत्तर: 12", "الجواب هو 12", "Het antwoord is 12.", "Odpowiedź: 12",
    "Cevap: 12",
])  # fmt: skip
def test_an_answer_is_said_in_many_languages(text: str) -> None:
    assert stated_answer(text) == "12"


@pytest.mark.parametrize(("text", "answer"), [
    ("{'answer': '12'}", "12"), ("{'reasoning': 'It\\'s so', 'answer': 12}", "12"), ('{"Answer": "12"}', "12"),
    (r'{"reasoning": "so \\boxed{46}, and p = -46", "answer": "-46"}', "-46"),
    (r'{"answer": "-46", "reasoning": "so \\boxed{46}"}', "-46"),
    (r'{"answer": "-46", "why": {"a": "\\boxed{46}"}}', "46"),
    (r'{"answer": "-46"} Wait, it is \boxed{46}.', "46"),
    (r'{"reasoning": "\\boxed{12}", "answer": "12 or 13"}', "12 or 13"),
    (r'{"reasoning": "\\boxed{12}", "answer": null}', "12"), ('{"answer": 3/4}', "3/4"), ("{\"answer\": '12'}", "12"),
    ('{"answer": "12"}\n\nSo the answer is 13.', "12"),
    ("```json\n{\"reasoning\": \"x\", \"final answer\": \"12\"}\n```", "12"),
])  # fmt: skip
def test_an_answer_stands_in_the_field_of_an_object(text: str, answer: str) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(("text", "answer"), [
    (r"\boxed{11}. Wait, I forgot one. The answer is 12.", "12"), ("#### 11\n#### 12", "12"),
    (r"#### 11\n\boxed{12}", "12"),
    ("#### 12\n\nExplanation: 16 - 4 = 12", "12"),
    ("#### Step 1: add\n3 + 9 = 12\n#### Step 2: check\nThe answer is 12.", "12"),
    (r"\boxed{12}\n#### Check\n3 * 4 = 12", "12"), (r"\boxed{12}. The answer would be 13 with another apple.", "12"),
    (r"\boxed{12}. The answer is 12 apples.", "12"),
    (r"\boxed{12}. We check our answer: $3 * 4 = 12$.", "12"),
    (r"\boxed{12}. We can check this answer by adding the numbers, which are $5, 7$.", "12"),
    (r"\boxed{12}. This answer equals $\binom{12}{1}.$ Is this a coincidence?", "12"),
    (r"\boxed{11}. No.\nFinal answer: 12", "12"), (r"\boxed{12}. The answer is 3 * 4 = 10 + 2 = 12.", "12"),
    ("A: 11\nA: 12", "12"),
    ("#### cannot be determined", "cannot be determined"),
])  # fmt: skip
def test_the_last_statement_counts(text: str, answer: str) -> None:
    assert stated_answer(text.replace("\\n", "\n")) == answer


@pytest.mark.parametrize(("text", "kept"), [
    ("A: 5\n\nQ: And 3 + 4?\nA: 7", "A: 5\n\n"), ("#### 5\n\nQuestion: And?\n#### 7", "#### 5\n\n"),
    ("The answer is 5.\n\n**Question:** And?", "The answer is 5.\n\n"),
    ("\\boxed{5}<|im_end|>\n<|im_start|>user", "\\boxed{5}"),
    ("The answer is 5.\nHuman: thanks", "The answer is 5.\n"), ("#### 5\n## Instruction: more", "#### 5\n"),
    ("5</s>6", "5"),
    ("18\n\nUser: And 7?", "18\n\n"), ("It is 18.\n\nQuestion: And 7?\nIt is 7.", "It is 18.\n\n"),
    ("Question: What is 3 + 2?\nThe answer is 5.", None), ("Let me repeat.\nProblem: 3 + 2\nAnswer: 5", None),
    ("Answer 1: The answer is 4.\nQuestion 2: And then?\nThe answer is 5.", None),
    ("<|im_start|>The answer is 5.", None),
])  # fmt: skip
def test_a_next_question_is_not_this_one(text: str, kept: str | None) -> None:
    assert first_answer(text) == (text if kept is None else kept)


@pytest.mark.parametrize("text", [
    "<think>4?</think>5", "4?</think>5", "5<think>4?", "[THINK]4?[/THINK]5", "◁think▷4?◁/think▷5",
    "<seed:think>4?</seed:think>5",
    "<reasoning>4?</reasoning>5", "<thinking>4?</thinking>5", "<|START_THINKING|>4?<|END_THINKING|>5",
    "<|channel|>analysis<|message|>4?<|end|><|start|>assistant<|channel|>final<|message|>5",
    "analysis4?assistantfinal5",
    "5<|channel|>analysis<|message|>4?",
])  # fmt: skip
def test_thoughts_of_any_family_of_models_are_removed(text: str) -> None:
    assert without_thoughts(text) == "5"


@pytest.mark.parametrize("module", [answers, phrases])
def test_the_examples_in_the_documentation_hold(module: Any) -> None:
    assert doctest.testmod(module).attempted > 0 and doctest.testmod(module).failed == 0


# Were the work quadratic, a million steps would become a million millions, and the runner would end the test.
@pytest.mark.parametrize("text", [
    "answer is " * 5_000, "the answer" * 8_000, "{" * 50_000, "<answer>" * 5_000, "#### \n" * 9_000,
    '"answer": ' * 5_000, "\\boxed{" * 4_000, "Q:\n" * 9_000, "$$" * 9_000, "answer: $$" * 2_000,
])  # fmt: skip
def test_endless_repetitions_come_to_an_end(text: str) -> None:
    first_answer(without_thoughts(text))
    stated_answer(text)
