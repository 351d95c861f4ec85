"""Function calls compared: a table by hand, BFCL's accepted values, and an independent comparison of random calls."""

import itertools
import json
import random
from typing import Any

import pytest

from features.texts.tasks import Task
from features.verification.verdict import Verdict
from features.verifiers.function_calls import function_calls


def called(response: Any, reference: Any, **options: Any) -> float | None:
    text = response if isinstance(response, str) else json.dumps(response)
    return function_calls(text, Task("q", "a query", [], reference), **options).label


def arguments(given: Any, wanted: Any) -> float | None:
    reference = {"calls": [{"name": "f", "arguments": {"a": wanted}}]}
    return called([{"name": "f", "arguments": {"a": given}}], reference)


def accepted(given: dict[str, Any], wanted: dict[str, Any]) -> float | None:
    return called([{"name": "f", "arguments": given}], {"accepted": [{"name": "f", "arguments": wanted}]})


@pytest.mark.parametrize(("given", "wanted", "label"), [
    (1, 1.0, 1), (1.0, 1, 1), ("1", 1, 0), (1, "1", 0), (True, 1, 0), (1, True, 0), (0, False, 0), (True, True, 1),
    (None, None, 1), (None, 0, 0), (None, "", 0), ("a", "A", 0), ("a b", "a  b", 0), (1e3, 1000, 1), (0.1, 0.1, 1),
    ([1, 2], [1.0, 2.0], 1), ([1, 2], [2, 1], 0), ([1], [1, 2], 0), ([True], [1], 0), ([], [], 1), ([], {}, 0),
    ({"x": 1, "y": 2}, {"y": 2, "x": 1.0}, 1), ({"x": 1}, {"x": 1, "y": None}, 0),
    ({"x": [{"y": 1}]}, {"x": [{"y": 1.0}]}, 1), ({"x": [{"y": "1"}]}, {"x": [{"y": 1}]}, 0),
    (9007199254740993, 9007199254740993, 1), (9007199254740993, 9007199254740992, 0),
])  # fmt: skip
def test_values_compare_as_json_does(given: Any, wanted: Any, label: int) -> None:
    assert arguments(given, wanted) == label


F, G, F2 = ({"name": n, "arguments": a} for n, a in (("f", {"a": 1}), ("g", {}), ("f", {"a": 2})))


@pytest.mark.parametrize(("calls", "label"), [
    ([F, G, F2], 1), ([F2, G, F], 1), ([G, F, F2], 1), ([F, G], 0), ([F, G, F2, F2], 0), ([F, F, G], 0), ([], 0),
    ([F, F2, {"name": "G", "arguments": {}}], 0), ([F, F2, {"name": "g", "arguments": {"b": 1}}], 0),
    ([F, F2, {"name": "g", "arguments": {"a": None}}], 0),
])  # fmt: skip
def test_calls_are_made_each_once_in_any_order(calls: list[Any], label: int) -> None:
    assert called(calls, {"calls": [F, G, F2]}) == label


def test_verdicts_tell_what_was_called() -> None:
    task = Task("q", "a query", [], {"calls": [F, F2]})
    one, other = json.dumps([F, F2]), "[f(a=2.0), f(a=1.0)]"
    assert function_calls(one, task) == function_calls(other, task) == Verdict(
        1.0, "", '["[\\"f\\", {\\"a\\": 1}]", "[\\"f\\", {\\"a\\": 2}]"]'
    )  # fmt: skip
    assert function_calls("I do not know.", task) == Verdict(0.0, "no call", None)


def test_a_task_without_calls_is_done_by_none() -> None:
    assert called("No function fits.", {"calls": []}) == 1
    assert called([F], {"calls": []}) == 0


@pytest.mark.parametrize("reference", [None, "text", {"tests": []}])
def test_without_reference_calls_there_is_no_verdict(reference: Any) -> None:
    assert called([F], reference) is None


@pytest.mark.parametrize(("given", "wanted", "label"), [
    ({"unit": "m"}, {"unit": ["m", "meters"]}, 1),
    ({"unit": "Meters."}, {"unit": ["m", "meters"]}, 1),
    ({"unit": "feet"}, {"unit": ["m", "meters"]}, 0),
    ({}, {"unit": ["m", ""]}, 1),
    ({}, {"unit": ["m"]}, 0),
    ({"unit": ""}, {"unit": ["m", ""]}, 1),
    ({"unit": "m", "other": 1}, {"unit": ["m"]}, 0),
    ({"n": 5.0}, {"n": [5]}, 1),
    ({"n": "5"}, {"n": [5]}, 0),
    ({"n": True}, {"n": [1]}, 0),
    ({"stops": ["A", "B"]}, {"stops": [["B", "A"], ["a", "b"]]}, 1),
    ({"stops": ["A", "C"]}, {"stops": [["B", "A"], ["a", "b"]]}, 0),
    ({"when": "April 1, 2024"}, {"when": ["april-1-2024"]}, 1),
    ({"budget": {"min": 3}}, {"budget": [{"min": [3], "max": [4, ""]}]}, 1),
    ({"budget": {"max": 4}}, {"budget": [{"min": [3], "max": [4, ""]}]}, 0),
    ({"budget": {"min": 3, "mean": 1}}, {"budget": [{"min": [3], "max": [4, ""]}]}, 0),
    ({"rows": [{"f": "Age"}, {"f": "job"}]}, {"rows": [[{"f": ["age"]}, {"f": ["job", "work"]}]]}, 1),
    ({"rows": [{"f": "job"}, {"f": "age"}]}, {"rows": [[{"f": ["age"]}, {"f": ["job", "work"]}]]}, 0),
    ({"years": []}, {"years": ["", []]}, 1),
    ({"years": [1]}, {"years": ["", []]}, 0),
    ({"x": None}, {"x": [None, "y"]}, 1),
])  # fmt: skip
def test_accepted_values_are_those_of_bfcl(given: dict[str, Any], wanted: dict[str, Any], label: int) -> None:
    assert accepted(given, wanted) == label


def test_each_call_gets_a_place_even_where_the_first_choice_takes_anothers() -> None:
    wide, narrow = ({"name": "f", "arguments": {"a": values}} for values in ([1, 2], [1]))
    calls = [{"name": "f", "arguments": {"a": value}} for value in (1, 2)]
    for order in itertools.permutations(calls):
        assert called(list(order), {"accepted": [wide, narrow]}) == 1
    assert called([calls[1], calls[1]], {"accepted": [wide, narrow]}) == 0


def test_texts_are_exact_or_loose_as_asked() -> None:
    call, reference = ([{"name": "f", "arguments": {"a": text}}] for text in ("San Diego, CA", "san diego CA"))
    assert called(call, {"calls": reference}) == called(call, {"calls": reference}, texts="exact") == 0
    assert called(call, {"calls": reference}, texts="loose") == 1
    assert called(call, {"accepted": [{"name": "f", "arguments": {"a": ["san diego CA"]}}]}, texts="exact") == 0


def test_random_calls_agree_with_comparing_their_sorted_json() -> None:
    draw = random.Random(0)
    values = [0, 1, 2, 0.5, "1", "a", True, False, None, [1, "a"], [1], {"x": 1}, {"x": "1"}]

    def calls() -> list[dict[str, Any]]:
        keys = [draw.sample("ab", draw.randint(0, 2)) for _ in range(draw.randint(1, 3))]
        return [{"name": draw.choice("fg"), "arguments": {key: draw.choice(values) for key in each}} for each in keys]

    labels = []
    for _ in range(1000):
        reference = calls()
        response = draw.sample(reference, len(reference)) if draw.random() < 0.3 else calls()
        same = sorted(json.dumps(each, sort_keys=True) for each in response) == sorted(
            json.dumps(each, sort_keys=True) for each in reference
        )
        labels.append(same)
        assert called(response, {"calls": reference}) == float(same)
    assert 0.25 < sum(labels) / len(labels) < 0.75


_OFFERED = {
    "get_weather": {"city": "string", "days": "integer", "tags": "array"},
    "math.factorial": {"number": "integer"},
    "get_time": {},
}
_PARIS = '{"city": "Paris", "days": 3}'


def offered(response: str, *calls: dict[str, Any]) -> float | None:
    return called(response, {"calls": list(calls), "parameters": _OFFERED})


@pytest.mark.parametrize("response", [
    f"function<｜tool▁sep｜>get_weather\n```json\n{_PARIS}\n```",
    f"<|tool▁calls▁begin|><|tool▁call▁begin|>function<|tool▁sep|>get_weather\n```json\n{_PARIS}\n```<|tool▁call▁end|>",
    f"<|start|>assistant<|channel|>commentary to=get_weather code<|message|>{_PARIS}<|call|>",
    f"[ToolCall(id='c', function=Function(arguments='{_PARIS}', name='get_weather'), type='function')]",
    f"FunctionCall(name='get_weather', arguments='{_PARIS}')", f"get_weather\n{_PARIS}", f"get_weather{_PARIS}",
    f"<|assistant|>get_weather\n{_PARIS}", f"<|call|>get_weather\n{_PARIS}",
    f'{{"api": "get_weather", "arguments": {_PARIS}}}', f'{{"method": "get_weather", "params": {_PARIS}}}',
    f'{{"name": "get_weather", "kwargs": {_PARIS}}}', f'{{"tool_name": "get_weather", "tool_arguments": {_PARIS}}}',
    f'{{"function_name": "get_weather", "function_args": {_PARIS}}}',
    f'{{"tool": {{"name": "get_weather", "input": {_PARIS}}}}}',
    f"<tool_call>\n<name>get_weather</name>\n<arguments>{_PARIS}</arguments>\n</tool_call>",
    f"<tool_use>\n<name>get_weather</name>\n<arguments>{_PARIS}</arguments>\n</tool_use>",
    "<get_weather>\n<city>Paris</city>\n<days>3</days>\n</get_weather>",
    '<function name="get_weather"><parameter name="city">Paris</parameter>'
    '<parameter name="days">3</parameter></function>',
    '<xai:function_call name="get_weather">\n<parameter name="city">Paris</parameter>\n'
    '<parameter name="days">3</parameter>\n</xai:function_call>',
])  # fmt: skip
def test_more_forms_of_a_call(response: str) -> None:
    assert offered(response, {"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}) == 1
    assert offered(response, {"name": "get_weather", "arguments": {"city": "Paris", "days": 4}}) == 0


@pytest.mark.parametrize("response", [
    "Action: get_time\nAction Input:", "Action: get_time\nAction Input: None\nObservation: 5",
    "<|channel|>commentary to=functions.get_time<|message|><|call|>", '{"name": "get_time", "arguments": []}',
    "get_time\n{}",
])  # fmt: skip
def test_more_forms_of_a_call_without_arguments(response: str) -> None:
    assert offered(response, {"name": "get_time", "arguments": {}}) == 1
    assert offered(response) == 0


@pytest.mark.parametrize("name", ["math_factorial", "math__factorial", "math-factorial", "functions.math.factorial"])
def test_signs_between_words_of_a_name_do_not_count(name: str) -> None:
    assert (
        offered(
            f'{{"name": "{name}", "arguments": {{"number": 5}}}}',
            {"name": "math.factorial", "arguments": {"number": 5}},
        )
        == 1
    )


def test_texts_of_python_may_have_line_ends() -> None:
    assert offered('get_weather(city="one\ntwo")', {"name": "get_weather", "arguments": {"city": "one\ntwo"}}) == 1
    assert (
        offered("[get_weather(city='it''s\n\"x\"')]", {"name": "get_weather", "arguments": {"city": 'its\n"x"'}}) == 1
    )


@pytest.mark.parametrize("response", [
    "You could use get_weather\nor {wait}.", "<city>Paris</city>", "Action: wait\nAction Input:", "get_weather\n[1]",
    "The function get_weather is for weather.", "Function(name='other', arguments='{}')",
])  # fmt: skip
def test_what_only_speaks_of_functions_is_no_call(response: str) -> None:
    assert offered(response) == (0 if response.startswith("Action") else 1)
