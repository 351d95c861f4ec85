"""Function calls are found in whatever is around them, written as JSON or as Python."""

import doctest
import json
from typing import Any

import pytest

from benchmarks.verdicts.call_notations import NOTATIONS
from features.verification.call_forms import brackets, call
from features.verification.call_forms.call import Call, parameter_types
from features.verification.calls import calls_in

ONE = Call("get_weather", {"city": "Rome", "days": 3})
TWO = Call("math.add", {"a": 1.5, "b": [1, {"c": None}], "exact": True})
BOTH = [{"name": "get_weather", "arguments": {"city": "Rome", "days": 3}}]
BOTH += [{"name": "math.add", "arguments": {"a": 1.5, "b": [1, {"c": None}], "exact": True}}]
TEXT, (FIRST, SECOND) = json.dumps(BOTH), map(json.dumps, BOTH)
PYTHON = "get_weather(city='Rome', days=3), math.add(a=1.5, b=[1, {'c': None}], exact=True)"
PARAMETERS = {
    "get_weather": {"city": "string", "days": "integer"},
    "math.add": {"a": "float", "b": "array", "exact": "boolean"},
}


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
    bfcl = {"name": "f", "parameters": {"type": "dict", "properties": {"a": {}, "b": {"type": ["string", "null"]}}}}
    xlam = {"name": "g", "parameters": {"type": {"type": "str"}, "properties": "int"}}
    properties = {"c": {"type": "integer"}}
    openai = {"type": "function", "function": {"name": "h", "parameters": {"type": "object", "properties": properties}}}
    assert parameter_types([bfcl, xlam, openai, {"name": "none"}]) == {
        "f": {"a": "", "b": "string|null"}, "g": {"type": "str", "properties": "int"}, "h": {"c": "integer"},
        "none": {},
    }  # fmt: skip


@pytest.mark.parametrize("notation", NOTATIONS)
def test_published_notations_say_the_same(notation: str) -> None:
    assert calls_in(NOTATIONS[notation]([ONE, TWO]), PARAMETERS) == [ONE, TWO]
    assert calls_in(NOTATIONS[notation]([TWO]), PARAMETERS) == [TWO]


@pytest.mark.parametrize("notation", NOTATIONS)
def test_texts_arrive_as_they_were_written(notation: str) -> None:
    texts = {
        "city": 'Zürich, "Old {Town}" (it\'s [1])',
        "note": "C:\\temp",
        "number": "5",
        "empty": "",
        "lines": "a\nb",
    }
    parameters = {"math.add": dict.fromkeys(texts, "string"), "math_add2": {}}
    assert calls_in(NOTATIONS[notation]([Call("math.add", texts)]), parameters) == [Call("math.add", texts)]


@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_call_without_arguments_is_a_call_in_every_notation(notation: str) -> None:
    assert calls_in(NOTATIONS[notation]([Call("now", {})]), {"now": {}}) == [Call("now", {})]


@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_call_of_a_function_that_nobody_offered_is_not_lost(notation: str) -> None:
    calls = [ONE, Call("get_weathers", {"city": "Rome"})]
    # In prose and code, an unknown name may be anything.
    expected = calls[:1] if notation in ("code", "Gemini, code", "Llama 3, method") else calls
    found = calls_in(NOTATIONS[notation](calls), PARAMETERS)
    assert [(each.name.removeprefix("functions.").removesuffix(":0"), each.arguments) for each in found] == [
        (each.name, each.arguments) for each in expected
    ]


@pytest.mark.parametrize(("text", "arguments"), [
    ('{"name": "f", "arguments": null}', {}), ('{"name": "f", "arguments": ""}', {}), ('{"name": "f"}', {}),
    ('{"name": "f", "arguments": "{}\\"\\""}', {}), ('{"id": "1", "type": "function", "name": "f"}', {}),
    ('{"name": "f", "arguments": {"a": "one\ntwo\t"}}', {"a": "one\ntwo\t"}), ("f({'a': 1})", {"a": 1}), ("f({})", {}),
    ("f(**{'a': 1})", {"a": 1}), ("f(a=dict(b=1, c=list([2])))", {"a": {"b": 1, "c": [2]}}),
    ("x = await f(a=1)", {"a": 1}),
    ('{"name": "f", "arguments": "\\"{\\\\\\"a\\\\\\": 1}\\""}', {"a": 1}), ('{"f": null}', {}),
    ('{"f": "{\\"a\\": 1}"}', {"a": 1}),
    ("<function=f>\n<parameter=a>1\n<parameter=b>\ntwo\n</function>", {"a": 1, "b": "two"}),
    ('<invoke name="f"><parameter name="a">[1, True]</parameter>', {"a": [1, True]}),
    ('<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="true">5</｜DSML｜parameter>\n</｜DSML｜invoke>',
     {"a": "5"}),
    ("<tool_name>f</tool_name>\n<parameters>\n<a>5</a>\n</parameters>", {"a": 5}),
    ('<|tool_call>call:f{a:<|"|>x, y:z<|"|>,b:[1,2]}<tool_call|>', {"a": "x, y:z", "b": [1, 2]}),
    ('<|channel|>analysis<|message|>Perhaps f(a=2)?<|end|><|start|>assistant<|channel|>commentary to=functions.f'
     ' <|constrain|>json<|message|>{"a": 1}<|call|>', {"a": 1}),
    ("[THINK]f(a=2)[/THINK][TOOL_CALLS]f[ARGS]{\"a\": 1}", {"a": 1}),
    ("f(a: 1)", {"a": 1}), ("[f(a: 1, b: 'x: y')]", {"a": 1, "b": "x: y"}),
    ("f({a: 1, b: {c: null}})", {"a": 1, "b": {"c": None}}),
    ('{"name": "f", // the tool\n "arguments": {"a": "http://x // y"}}', {"a": "http://x // y"}),
    ('<f>{"a": 1}</f>', {"a": 1}),
    ('<tool_call>f\n{"a": 1}\n</tool_call>', {"a": 1}), ('<tool name="f">{"a": 1}</tool>', {"a": 1}),
    ('<f a="1" b="x"/>', {"a": 1, "b": "x"}),
    ("<longcat_tool_call>f\n<longcat_arg_key>a</longcat_arg_key>\n"
     "<longcat_arg_value>1</longcat_arg_value>\n</longcat_tool_call>", {"a": 1}),
    ('Tool: f\nArguments: {"a": 1}', {"a": 1}),
    ('**Function**: `f`\n**Parameters**:\n```json\n{"a": 1}\n```', {"a": 1}),
    ('Action: f[{"a": 1}]', {"a": 1}), ('Action: `f`\nAction Input: `{"a": 1}`', {"a": 1}), ('f: {"a": 1}', {"a": 1}),
    ('`f` {"a": 1}', {"a": 1}),
    ('"{\\"name\\": \\"f\\", \\"arguments\\": {\\"a\\": 1}}"', {"a": 1}), ("f(a=“x”)", {"a": "x"}),
    ("f(a\\_b=1)", {"a_b": 1}),
    ('{&quot;name&quot;: &quot;f&quot;, &quot;arguments&quot;: {&quot;a&quot;: 1}}', {"a": 1}),
    ('{"name": "f", "inputs": {"a": 1}}', {"a": 1}),
    ('{"name": "f", "arguments": [{"a": 1}]}', {"a": 1}), ('<invoke name="f">\n<a>1</a>\n</invoke>', {"a": 1}),
    ("<f/>", {}),
    ('<tool_call>\n<name>f</name>\n<arguments>\n<a>1</a>\n</arguments>\n</tool_call>', {"a": 1}),
])  # fmt: skip
def test_arguments_may_be_missing_or_written_in_odd_ways(text: str, arguments: dict[str, object]) -> None:
    assert calls_in(text, {"f": {}}) == [Call("f", arguments)]


@pytest.mark.parametrize("text", [
    '{"name": "Alice"}', '{"name": "f", "description": "does it"}', '{"g": {"a": 1}}', '[{"g": "{}"}]',
    'Action: f\nAction Input: Rome', "<function=f", "to=f", "See f(a: the number) for more.", "f(a::int = 1)",
    "f(a[1:2])",
    'Function: f\nDescription: does it\nParameters: {"a": 1}', '{"name": "f", "arguments": [{"a": 1}, {"a": 2}]}',
    '{"name": "f", "color": "red"}',
])  # fmt: skip
def test_what_only_looks_like_a_call_is_none(text: str) -> None:
    assert calls_in(text, {"f": {}}) == []


def test_arguments_may_stand_beside_the_name_of_a_known_function() -> None:
    assert calls_in('{"name": "get_weather", "city": "Rome", "days": 3}', PARAMETERS) == [ONE]
    assert calls_in('{"name": "get_weather", "town": "Rome"}', PARAMETERS) == []


def test_names_that_two_functions_have_when_dots_become_underscores_stay_as_they_are() -> None:
    assert calls_in("[a_b()]", {"a.b": {}, "a/b": {}}) == [Call("a_b", {})]


@pytest.mark.parametrize("module", [brackets, call])
def test_the_examples_in_the_documentation_hold(module: Any) -> None:
    assert doctest.testmod(module).attempted > 0 and doctest.testmod(module).failed == 0


def test_a_run_of_blank_lines_is_not_read_from_each_of_its_lines_on() -> None:
    # From each of its lines on, this would take minutes.
    assert calls_in("\n" * 20_000 + TEXT, PARAMETERS) == [ONE, TWO]
