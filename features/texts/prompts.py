r"""Prompts: the prompts of chat models for each kind of task, from appendix G of Language Ranker.

Note:
    Where the printed appendix shows a slot (`{function_name(input)}`) or has lost a space or a line end, the original
    text is reconstructed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from language_models.chat_template import Message

PromptName = Literal["plain", "mathematics", "instruction"]
"""The prompts that need only the query; `plain` is the query alone."""

_MATHEMATICS = """Please solve the given math problem step by step and present the answer in the following format: \
"\\boxed{X}", where X is the answer.

"""

_CODING = """Write a Python function based on the following instructions and test example. Please ensure that the \
function is clearly marked with a start and end so I can easily extract it from your output.

Instructions:

"""

_TEST_EXAMPLE = """

Test Example:

"""

_CODE_MARKERS = """

Please provide your code with clear start and end markers, like so:

```
#START OF CODE
def function_name(input):
    ... function code ...
    return result
#END OF CODE
```"""

_CALLING = """You are a function-calling assistant. Your role is to complete tasks solely through correct function \
calls, without generating any additional text. For each task, directly output the function call(s) required to \
complete it. If the task involves multiple steps, you may issue multiple function calls sequentially. Each function \
call must be formatted as a JSON object. For example: [{"name": "functionA", "arguments": {"param1": "value1", \
"param2": "value2"}}, {"name": "functionB", "arguments": {"param1": "value1", "param2": "value2"}}]

The following are the available functions: """

_CALLING_TASK = """

Now, use the appropriate function(s) to complete the given task."""

_CALLING_END = """

Please directly output the function call(s) to solve the task without any other text."""

_INSTRUCTION = """Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

"""

RUBRIC = """Review the user's question and the corresponding response using the additive 5-point scoring system \
described below

The user's question is between <question> and </question>
The response of the AI Assistant is between <response> and </response>

Points are accumulated based on the satisfaction of each criterion:
- Add 1 point if the response is relevant and provides some information related to the user's inquiry, even if it is \
incomplete or contains some irrelevant content.
- Add another point if the response addresses a substantial portion of the user's question, but does not completely \
resolve the query or provide a direct answer.
- Award a third point if the response answers the basic elements of the user's question in a useful way, regardless \
of whether it seems to have been written by an AI Assistant or if it has elements typically found in blogs or search \
results.
- Grant a fourth point if the response is clearly written from an AI Assistant's perspective, addressing the user's \
question directly and comprehensively, and is well-organized and helpful, even if there is slight room for \
improvement in clarity, conciseness or focus.
- Bestow a fifth point for a response that is impeccably tailored to the user's question by an AI Assistant, without \
extraneous information, reflecting expert knowledge, and demonstrating a high-quality, engaging, and insightful answer.
- If the response repeats itself or is not concise and to the point, score the response 0.

<question>{query}</question>

<response>{response}</response>

After examining the user's instruction and the response:
- output the score of the evaluation using this exact format: "score: <total points>", where <total points> is \
between 0 and 5
- Briefly justify your total score, up to 100 words."""
"""The prompt of a judge of instruction following; `{query}` and `{response}` are replaced by the texts."""


def prompted(name: PromptName, query: str) -> list[Message]:
    """The prompt with this name for a query."""
    return {"plain": plain, "mathematics": mathematics, "instruction": instruction}[name](query)


def plain(query: str) -> list[Message]:
    """The query alone."""
    return [{"role": "user", "content": query}]


def mathematics(query: str) -> list[Message]:
    r"""A math problem; asks for the answer in \boxed{}."""
    return _chat("You are a math expert.", _MATHEMATICS + query)


def coding(query: str, test_example: str | None = None) -> list[Message]:
    """A task to write a Python function between the markers #START OF CODE and #END OF CODE.

    Args:
        query: What the function must do.
        test_example: A test that the function must pass; None if the query has examples.
    """
    example = _TEST_EXAMPLE + test_example if test_example else ""
    return _chat("You are an expert Python programmer.", _CODING + query + example + _CODE_MARKERS)


def function_calling(query: str, functions: Sequence[Mapping[str, Any]]) -> list[Message]:
    """A task to solve by function calls, written as JSON.

    Args:
        query: The task.
        functions: The offered functions, each with name, description and parameters.
    """
    return _chat(_CALLING + json.dumps(functions, ensure_ascii=False) + _CALLING_TASK, query + _CALLING_END)


def instruction(query: str) -> list[Message]:
    """An instruction to follow."""
    return _chat("You are an assistant.", _INSTRUCTION + query + " Begin!")


def rubric(query: str, response: str, template: str = RUBRIC) -> list[Message]:
    """The prompt of a judge."""
    # One pass, so that a query with the word {response} in it is not changed.
    before, _, rest = template.partition("{query}")
    middle, _, after = rest.partition("{response}")
    return [{"role": "user", "content": f"{before}{query}{middle}{response}{after}"}]


def _chat(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
