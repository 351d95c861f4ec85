"""Prompts are those of the paper's appendix G."""

from typing import get_args

from features.texts.prompts import PromptName, coding, function_calling, instruction, mathematics, prompted, rubric

QUERY = "What is {response} \\ 2?"


def test_each_prompt_is_a_system_message_and_one_of_the_user_that_has_the_query() -> None:
    found = [
        mathematics(QUERY),
        coding(QUERY, "assert f(1)"),
        function_calling(QUERY, [{"name": "f"}]),
        instruction(QUERY),
    ]
    assert all([message["role"] for message in messages] == ["system", "user"] for messages in found)
    assert all(QUERY in messages[1]["content"] for messages in found)
    assert [messages[0]["content"].partition(".")[0] for messages in found] == [
        "You are a math expert", "You are an expert Python programmer", "You are a function-calling assistant",
        "You are an assistant",
    ]  # fmt: skip


def test_the_words_are_the_papers() -> None:
    assert mathematics("Q")[1]["content"] == (
        "Please solve the given math problem step by step and present the answer in the following format: "
        '"\\boxed{X}", where X is the answer.\n\nQ'
    )
    assert "\n#START OF CODE\ndef function_name(input):\n" in coding("Q")[1]["content"]
    assert "Test Example" not in coding("Q")[1]["content"]
    assert (
        '{"name": "functionA", "arguments": {"param1": "value1", "param2": "value2"}}'
        in function_calling("Q", [])[0]["content"]
    )
    assert 'available functions: [{"name": "é"}]' in function_calling("Q", [{"name": "é"}])[0]["content"]
    assert instruction("Q")[1]["content"].endswith("completes the request.\n\nQ Begin!")


def test_a_prompt_that_needs_only_the_query_has_a_name() -> None:
    assert [len(prompted(name, QUERY)) for name in get_args(PromptName)] == [1, 2, 2]
    assert prompted("plain", QUERY) == [{"role": "user", "content": QUERY}]


def test_the_rubric_keeps_query_and_response_as_they_are() -> None:
    (message,) = rubric(QUERY, "It is {query}.")
    assert f"<question>{QUERY}</question>\n\n<response>It is {{query}}.</response>" in message["content"]
    assert 'this exact format: "score: <total points>", where <total points> is between 0 and 5' in message["content"]
    assert max(map(len, message["content"].split("\n"))) < 400 and "  " not in message["content"]
