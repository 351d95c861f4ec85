"""HumanEval+ and MBPP+: programs compared with the published solution by EvalPlus's rules."""

import json
from pathlib import Path
from typing import Any

import pytest

from features.texts.tasks import Task
from features.verifiers.unit_tests import UnitTests
from registry import SOURCES, ConfigError


def row(id: str, name: str, solution: str, inputs: list[Any], **more: Any) -> dict[str, Any]:
    text = "def f(a):\n" if id.startswith("HumanEval") else '"""\nWrite it.\nassert f(1) == 1\n"""\n'
    fields = {
        "task_id": id,
        "prompt": text.replace("f(", f"{name}("),
        "entry_point": name,
        "canonical_solution": solution,
    }
    return {**fields, "base_input": inputs[:1], "plus_input": inputs[1:], "atol": 0, "contract": "", **more}


def tasks(folder: Path, *rows: dict[str, Any]) -> list[Task]:
    plus = "humaneval_plus" if rows[0]["task_id"].startswith("HumanEval") else "mbpp_plus"
    path = folder / ("HumanEvalPlus.jsonl" if plus == "humaneval_plus" else "MbppPlus.jsonl")
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return list(SOURCES.build({"name": plus, "path": str(folder)}).problems())


def labels(task: Task, *programs: str, **options: Any) -> list[float | None]:
    return [
        verdict.label for verdict in UnitTests(isolation="off", **options).verify((task, each) for each in programs)
    ]


def test_bodies_and_whole_programs_agree_with_the_solution_on_all_inputs(tmp_path: Path) -> None:
    (task,) = tasks(tmp_path, row("HumanEval/3", "f", "    return a[:] + [1]\n", [[[1]], [[]], [[2, 3]]]))
    assert (task.query_id, task.query, task.split) == ("humaneval-3", "def f(a):", "test")
    right, changed = "    return a + [1]\n", "def f(a):\n    a.append(1)\n    return a\n"
    assert labels(task, right, changed, "    return [1, 1]\n") == [1, 1, 0]
    assert labels(task, "    return [1, 1]\n", partial=True) == [0.5]


def test_floats_are_close_and_other_values_equal(tmp_path: Path) -> None:
    floats, whole, told = tasks(
        tmp_path,
        row("Mbpp/900", "f", "def f(a):\n    return [a / 3]", [[1.0], [2.0]]),
        row("Mbpp/901", "f", "def f(a):\n    return a", [[1], [1000000]]),
        row("Mbpp/902", "f", "def f(a):\n    return a", [[1], [2]], atol=0.5),
    )
    close = "def f(a):\n    return [a / 3 + 1e-8]"
    assert labels(floats, close, "def f(a):\n    return [a / 3 + 1e-3]", "def f(a):\n    return (a / 3,)") == [1, 0, 0]
    assert labels(whole, "def f(a):\n    return a + 1e-9") == [0]
    assert labels(told, "def f(a):\n    return int(a + 0.4)", "def f(a):\n    return a + 1") == [1, 0]


@pytest.mark.parametrize(("id", "name", "solution", "inputs", "right", "wrong"), [
    ("Mbpp/2", "similar_elements", "def similar_elements(a, b):\n    return tuple(set(a) & set(b))", [[[1, 2], [2]]],
     "def similar_elements(a, b):\n    return [2, 2] if type(a) is tuple else []",
    "def similar_elements(a, b):\n    return [1]"),
    ("Mbpp/7", "find_char_long", "def find_char_long(a):\n    return a.split()", [["ab cd"]],
     "def find_char_long(a):\n    return ['cd', 'ab']", "def find_char_long(a):\n    return ['ab']"),
    ("Mbpp/434", "text_match_three", "def text_match_three(a):\n    return 'abbb' in a", [["abbb"], ["a"]],
     "import re\ndef text_match_three(a):\n    return re.search('ab{3}', a)",
    "def text_match_three(a):\n    return a"),
    ("Mbpp/164", "are_equivalent", "def are_equivalent(a, b):\n    return a == b", [[1, 2]],
     "def are_equivalent(a, b):\n    return True", "def are_equivalent(a, b):\n    return 1 / 0"),
    ("Mbpp/295", "sum_div", "def sum_div(a):\n    return 1", [[1]],
     "def sum_div(a):\n    return 0", "def sum_div(a):\n    return 2"),
    ("Mbpp/558", "digit_distance_nums", "def digit_distance_nums(a, b):\n    return 0", [[123, 56]],
     "def digit_distance_nums(a, b):\n    return 1 + 3 + 3", "def digit_distance_nums(a, b):\n    return 1"),
    ("Mbpp/581", "surface_Area", "def surface_Area(a, b):\n    return 0", [[3, 4]],
     "def surface_Area(a, b):\n    return 35", "def surface_Area(a, b):\n    return 33"),
    ("HumanEval/32", "find_zero", "    return -0.5\n", [[[1, 2]]], "    return -0.50001\n", "    return 0.5\n"),
    ("Mbpp/115", "empty", "def empty(a):\n    return all(not each for each in a)", [[[[], [1]]]],
     "def empty(a):\n    return [type(each) for each in a] != [dict, set]", "def empty(a):\n    return True"),
    ("Mbpp/124", "angle", "def angle(a, b):\n    return a + b.imag", [["1", "2j"]],
     "def angle(a, b):\n    return a + b.imag", "def angle(a, b):\n    return 1"),
    ("Mbpp/580", "even", "def even(a):\n    return a[1]", [[[1, [2, [3]]]]],
     "def even(a):\n    return (2, (3,))", "def even(a):\n    return [2, [3]]"),
    ("Mbpp/722", "filter", "def filter(a, b):\n    return a", [[{"x": [1, 2]}, 1]],
     "def filter(a, b):\n    return {'x': (1, 2)}", "def filter(a, b):\n    return {'x': [1, 2]}"),
])  # fmt: skip
def test_some_tasks_have_rules_and_types_of_their_own(
    tmp_path: Path, id: str, name: str, solution: str, inputs: list[Any], right: str, wrong: str
) -> None:
    (task,) = tasks(tmp_path, row(id, name, solution, inputs, atol=1e-4 if name == "find_zero" else 0))
    assert labels(task, right, wrong) == [1, 0]


def test_prompts_have_an_example_and_solutions_are_responses(tmp_path: Path) -> None:
    (task,) = tasks(tmp_path, row("Mbpp/903", "f", "def f(a):\n    return a", [[1]]))
    assert task.query.startswith("Write it.") and "assert f(1) == 1" in task.messages[-1]["content"]
    (published,) = SOURCES.build({"name": "mbpp_plus", "path": str(tmp_path), "solutions": True}).problems()
    assert labels(task, published.responses[0].text) == [1]


@pytest.mark.parametrize(("change", "message"), [
    ({"task_id": "3"}, "expected HumanEval/ or Mbpp/ and a number"),
    ({"base_input": 3}, "a list of lists of arguments"),
    ({"base_input": [], "plus_input": {}}, "has no input"), ({"atol": "much"}, "expected a number"),
])  # fmt: skip
def test_bad_rows_are_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks(
            tmp_path, row("Mbpp/903", "f", "def f(a):\n    return a", [[1]]) | change
        ) if "task_id" not in change else tasks(
            tmp_path,
            row("HumanEval/1", "f", "    return a", [[1]]),
            row("HumanEval/2", "f", "    return a", [[1]]) | change,
        )
