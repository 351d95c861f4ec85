"""Result files of other tools are read as they are: each row's responses, reference and label."""

import json
from pathlib import Path
from typing import Any

import pytest

from features.sources.own.results import Results
from features.texts.tasks import Task
from registry import SOURCES, ConfigError

LM_EVAL = {
    "doc_id": 0,
    "doc": {"question": "9 * 2?", "answer": "<<9*2=18>>18\n#### 18"},
    "target": "<<9*2=18>>18\n#### 18",
    "arguments": {"gen_args_0": {"arg_0": "Question: 9 * 2?\nAnswer:"}},
    "resps": [["It is 18.\n#### 18"]],
    "filtered_resps": ["18"],
    "filter": "strict-match",
    "exact_match": 1.0,
}
ZEROEVAL = {
    "session_id": "math-l5-0",
    "chat_history": ["Find it."],
    "model_input": "Find it.",
    "output": ['{"reasoning": "so", "answer": "12"}'],
    "generator": "a-model",
    "dataset": "math-l5",
    "problem": "Find it.",
    "answer": "12",
}


def read(path: Path, rows: Any, **options: Any) -> list[Task]:
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return list(SOURCES.build({"name": "results", "path": str(path), **options}).problems())


def human_eval(folder: Path) -> dict[str, str]:
    row = {
        "task_id": "HumanEval/0",
        "prompt": "def f(a):\n",
        "canonical_solution": "    return a\n",
        "test": "def check(f):\n    assert f(1) == 1\n",
        "entry_point": "f",
    }
    (folder / "HumanEval.jsonl").write_text(json.dumps(row) + "\n")
    return {"name": "humaneval", "path": str(folder / "HumanEval.jsonl")}


def test_samples_of_human_eval_get_the_tests_of_their_tasks(tmp_path: Path) -> None:
    rows = [
        {"task_id": "HumanEval/0", "completion": "    return a\n", "result": "passed", "passed": True},
        {"task_id": "HumanEval/0", "completion": "    return 2\n", "result": "failed: ", "passed": False},
        {"task_id": "HumanEval/0", "solution": "def f(a):\n    return a\n"},
    ]
    (task,) = read(tmp_path / "samples.jsonl", rows, tasks=human_eval(tmp_path))
    assert task.query_id == "humaneval-0" and task.reference["entry_point"] == "f"
    assert [(each.text, each.label) for each in task.responses] == [
        ("    return a\n", 1), ("    return 2\n", 0), ("def f(a):\n    return a\n", None),
    ]  # fmt: skip


def test_bfcl_lines_are_texts_with_their_calls(tmp_path: Path) -> None:
    functions = [{"name": "f", "parameters": {"type": "dict", "properties": {"a": {"type": "integer"}}}}]
    question = {"id": "simple_python_0", "question": [[{"role": "user", "content": "q"}]], "function": functions}
    (tmp_path / "possible_answer").mkdir()
    (tmp_path / "BFCL_v4_simple_python.json").write_text(json.dumps(question) + "\n")
    answer = {"id": "simple_python_0", "ground_truth": [{"f": {"a": [1]}}]}
    (tmp_path / "possible_answer" / "BFCL_v4_simple_python.json").write_text(json.dumps(answer) + "\n")
    tasks = {"name": "bfcl", "path": str(tmp_path), "categories": ["simple_python"]}
    rows = [
        {"id": "simple_0", "result": [{"f": '{"a": 1}'}], "latency": 1},
        {"id": "simple_python_0", "result": "[f(a=2)]"},
    ]
    tasks_read = read(tmp_path / "results.jsonl", rows, tasks=tasks)
    assert [[each.text for each in task.responses] for task in tasks_read] == [
        ['[{"f": "{\\"a\\": 1}"}]'],
        ["[f(a=2)]"],
    ]
    assert all(task.reference["accepted"] == [{"name": "f", "arguments": {"a": [1]}}] for task in tasks_read)


def test_zeroeval_has_its_answers_and_is_a_list(tmp_path: Path) -> None:
    (task,) = read(tmp_path / "model.json", [ZEROEVAL])
    assert (task.query_id, task.query, task.reference) == ("math-l5-0", "Find it.", "12")
    assert [each.text for each in task.responses] == ZEROEVAL["output"]


def test_lm_eval_has_its_answers_and_its_metric_as_a_label(tmp_path: Path) -> None:
    flexible = {**LM_EVAL, "filter": "flexible-extract"}
    other = {**LM_EVAL, "doc_id": 1, "resps": [["17", "18"]], "exact_match": 0.0}
    first, second = read(tmp_path / "samples_gsm8k.jsonl", [LM_EVAL, flexible, other])
    assert (first.query, first.reference) == ("9 * 2?", "18")
    assert [(each.text, each.label) for each in first.responses] == [("It is 18.\n#### 18", 1)]
    assert [each.text for each in second.responses] == ["17", "18"]


@pytest.mark.parametrize(("target", "reference"), [
    ("#### 18", "18"), (r"So \boxed{\frac12}.", r"\frac12"), ("18", "18"), (18, "18"),
    ("The answer is short", "The answer is short"),
])  # fmt: skip
def test_the_answer_of_a_solution_is_what_it_marks(tmp_path: Path, target: Any, reference: str) -> None:
    (task,) = read(tmp_path / "samples.jsonl", [{**LM_EVAL, "target": target}])
    assert task.reference == reference


@pytest.mark.parametrize(("rows", "message"), [
    ([{"a": 1, "b": 2}], "has the fields a, b; expected human-eval's"),
    ([{**LM_EVAL, "resps": [[["-1.5", "False"]]]}], "expected a response, or a list of responses"),
    ([{"task_id": "HumanEval/0", "completion": None}], "expected a response"),
    ([], "holds nothing"),
])  # fmt: skip
def test_other_rows_are_refused(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "samples.jsonl", rows)


def test_tasks_that_the_source_lacks_are_named(tmp_path: Path) -> None:
    rows = [{"task_id": "HumanEval/7", "completion": "    return a\n"}]
    with pytest.raises(ConfigError, match="'HumanEval/7' is not among the 1 tasks of"):
        read(tmp_path / "samples.jsonl", rows, tasks=human_eval(tmp_path))


def test_equal_files_have_equal_fingerprints(tmp_path: Path) -> None:
    read(tmp_path / "a.json", [ZEROEVAL])
    first = Results(str(tmp_path / "a.json")).fingerprint()
    assert first["tasks"] is None and first == Results(str(tmp_path / "a.json")).fingerprint()
    read(tmp_path / "a.json", [{**ZEROEVAL, "answer": "13"}])
    assert Results(str(tmp_path / "a.json")).fingerprint() != first


def test_results_of_evalplus_are_labels_of_base_and_plus_tests_together(tmp_path: Path) -> None:
    statuses = [("pass", "pass"), ("pass", "fail"), ("fail", "fail"), ("pass", None), ("timeout", "timeout")]
    results = [
        {"task_id": "HumanEval/0", "solution": f"x = {place}", "base_status": base, "plus_status": plus}
        for place, (base, plus) in enumerate(statuses)
    ]
    rows = {"date": "2024-05-01", "hash": "a", "eval": {"HumanEval/0": results}}
    (task,) = read(tmp_path / "samples_eval_results.json", rows, tasks=human_eval(tmp_path))
    assert [(each.text, each.label) for each in task.responses] == [
        ("x = 0", 1), ("x = 1", 0), ("x = 2", 0), ("x = 3", 1), ("x = 4", 0),
    ]  # fmt: skip


def test_old_results_of_evalplus_without_programs_are_refused(tmp_path: Path) -> None:
    rows = [{"eval": {"HumanEval/0": {"nfiles": 1, "base": [["pass", []]], "plus": []}}}]
    with pytest.raises(ConfigError, match=r"HumanEval/0.*expected a list of results with their `solution`"):
        read(tmp_path / "eval_results.json", rows, tasks=human_eval(tmp_path))


@pytest.mark.parametrize("target", [1, "1", "B"])
@pytest.mark.parametrize("named", [True, False])
def test_the_likeliest_choice_is_the_response_to_a_question_with_choices(
    tmp_path: Path, target: Any, named: bool
) -> None:
    pairs = [{"arg_0": "Which? A or B", "arg_1": f" {letter}"} for letter in "AB"]
    rows = [
        {
            "doc_id": number,
            "doc": {"question": "Which?", "choices": ["one", "two"]},
            "target": target,
            "arguments": {f"gen_args_{place}": each for place, each in enumerate(pairs)}
            if named
            else [list(each.values()) for each in pairs],
            "resps": [[[first, "False"]], [["-1.5", "True"]]],
            "filtered_resps": [[first, "False"], ["-1.5", "True"]],
            "acc": acc,
        }
        for number, (first, acc) in enumerate([("-2.5", 1.0), ("-0.5", 0.0)])
    ]
    right, wrong = read(tmp_path / "samples_arc.jsonl", rows)
    assert (right.reference, [(each.text, each.label) for each in right.responses]) == ("B", [("B", 1)])
    assert (wrong.reference, [(each.text, each.label) for each in wrong.responses]) == ("B", [("A", 0)])
