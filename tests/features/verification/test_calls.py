"""Function calls are found in whatever is around them, written as JSON or as Python."""

import json

import pytest

from features.verification.calls import Call, calls_in, parameter_names

ONE = Call("get_weather", {"city": "Rome", "days": 3})
TWO = Call("math.add", {"a": 1.5, "b": [1, {"c": None}], "exact": True})
BOTH = [{"name": "get_weather", "arguments": {"city": "Rome", "days": 3}}]
BOTH += [{"name": "math.add", "arguments": {"a": 1.5, "b": [1, {"c": None}], "exact": True}}]
TEXT, (FIRST, SECOND) = json.dumps(BOTH), map(json.dumps, BOTH)
PYTHON = "get_weather(city='Rome', days=3), math.add(a=1.5, b=[1, {'c': None}], exact=True)"
PARAMETERS = {"get_weather": ["city", "days"], "math.add": ["a", "b", "exact"]}


@pytest.mark.parametrize("text", [
    TEXT,
    f"Sure, here you are:\n```json\n{json.dumps(BOTH, indent=2)}\n```\nAnything else (I can help)? [y/n]",
    f"{FIRST}\n{SECOND}",
    f"{FIRST}; {SECOND}",
    f"<tool_call>\n{FIRST}\n</tool_call>\n<tool_call>\n{SECOND}\n</tool_call>",
    f"[TOOL_CALLS] {TEXT}",
    f"<think>Maybe {json.dumps(BOTH[:1])} alone? No {{that}} is [not all].</think>{TEXT}",
    TEXT.replace("arguments", "parameters"),
    str(BOTH),
    json.dumps([{"type": "function", "id": "1", "function": each} for each in BOTH]),
    json.dumps({"content": None, "tool_calls": [
        {"function": {"name": each["name"], "arguments": json.dumps(each["arguments"])}} for each in BOTH
    ]}),
    json.dumps({"thought": "easy", "calls": BOTH}),
    json.dumps({"action": BOTH[0]}) + json.dumps({"function_calls": [BOTH[1]]}),
    TEXT.replace("}}]", "}},]"),
    json.dumps([{"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}]) + TEXT,
    f"[{PYTHON}]",
    f"I would call these (in order):\n```python\n[{PYTHON}]\n```\nThat is all (really).",
    PYTHON.replace("), ", ")\n"),
    f"[{PYTHON.replace('True', 'true').replace('None', 'null')}]",
])  # fmt: skip
def test_the_same_calls_in_many_writings(text: str) -> None:
    assert calls_in(text) == calls_in(text, PARAMETERS) == [ONE, TWO]


@pytest.mark.parametrize("text", [
    "", "I cannot do that.", "[]", "{}", '[1, 2, {"a": 3}]', '{"name": "f"}', '{"name": "f", "arguments": "not JSON"}',
    '{"name": 3, "arguments": {}}', '{"name": "f", "arguments": {"a": 1}', "f(a=", "f(**more)", "[f(1), 2]",
    f"<think>Maybe {TEXT}",
    "((((", "[" * 2000, "[f(" * 2000, "{" * 2000,
    "[" * 900 + "]" * 900,
])  # fmt: skip
def test_what_is_no_call_is_none(text: str) -> None:
    assert calls_in(text) == []


def test_prose_is_no_call_where_the_functions_are_known() -> None:
    text = "Using Newton(1687) and get_weather(days=1, city='Rome'), see math.sqrt(x=2)."
    assert calls_in(text, PARAMETERS) == [Call("get_weather", {"days": 1, "city": "Rome"})]


def test_a_list_of_calls_counts_with_those_of_functions_that_nobody_offered() -> None:
    assert calls_in("[get_weather(city='Rome'), invented(a=1)]", PARAMETERS) == [
        Call("get_weather", {"city": "Rome"}),
        Call("invented", {"a": 1}),
    ]


def test_positional_arguments_get_the_names_that_the_function_gives_them() -> None:
    assert calls_in("[get_weather('Rome', days=3)]", PARAMETERS) == [ONE]
    assert calls_in("[get_weather('Rome', 3, 4)]", PARAMETERS) == []
    assert calls_in("[get_weather('Rome')]") == []


@pytest.mark.parametrize(("code", "value"), [
    ("-3", -3), ("+3", 3), ("-0.5", -0.5), ("1/4", 0.25), ("2*3 - 1", 5), ("(1, 2)", [1, 2]), ("{'a': -1}", {"a": -1}),
    ("lambda x: x**2", "lambda x: x ** 2"), ("x**2", "x ** 2"), ("today()", "today()"), ("None", None),
    ("false", False), ("'it\\'s (a) \"b\"'", "it's (a) \"b\""), ("1/0", "1 / 0"), ("True + 1", "True + 1"),
    ("some_name", "some_name"), ("1e308 * 10", "1e+308 * 10"), (f"1{'0' * 400} * 1.5", f"1{'0' * 400} * 1.5"),
])  # fmt: skip
def test_python_values_become_json_values_or_stand_for_themselves(code: str, value: object) -> None:
    (call,) = calls_in(f"[f(a={code})]")
    assert call.arguments == {"a": value} and type(call.arguments["a"]) is type(value)


def test_python_values_within_objects_become_json_values_too() -> None:
    (call,) = calls_in("{'name': 'f', 'arguments': {'a': (1, 2), 'b': {3}, 1: true, 'c': b'x', 'd': 2j}}")
    assert call.arguments == {"a": [1, 2], "b": [3], "1": True, "c": "b'x'", "d": "2j"}


# Were the work quadratic, a million steps would become a million millions, and the runner would end the test.
@pytest.mark.parametrize("text", ["[" * 50_000, "[1," * 15_000, "[[]," * 12_000, '{"a": ' * 8_000, "['a" * 12_000])
def test_endless_repetitions_hold_no_call_and_come_to_an_end(text: str) -> None:
    assert calls_in(text) == []


def test_parameters_are_named_as_xlam_bfcl_and_openai_describe_them() -> None:
    bfcl = {"name": "f", "parameters": {"type": "dict", "properties": {"a": {}, "b": {}}, "required": ["a"]}}
    xlam = {"name": "g", "parameters": {"type": {"type": "str"}, "properties": {"type": "int"}}}
    openai = {"type": "function", "function": {"name": "h", "parameters": {"type": "object", "properties": {"c": {}}}}}
    assert parameter_names([bfcl, xlam, openai, {"name": "none"}]) == {
        "f": ["a", "b"], "g": ["type", "properties"], "h": ["c"], "none": [],
    }  # fmt: skip
