"""python -m features judge: verdicts alone, from files as they are, with counts, examples and agreement."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from features.__main__ import main
from features.commands.judge import judge, source_of
from features.sources.own.jsonl import JsonLines
from features.sources.own.problems import Problems
from features.texts.tasks import Response, Task
from features.verification.report import Judged, VerdictReport
from features.verification.verdict import Verdict
from registry import ConfigError

ROWS = [
    {
        "query_id": "a",
        "query": "q",
        "answer": "18",
        "candidates": [{"text": "#### 18", "label": 1}, {"text": "#### 17", "label": 1}],
    },
    {"query_id": "b", "query": "q", "answer": "3", "candidates": [{"text": "none", "label": 0}, "#### 3"]},
]


@pytest.fixture
def problems(tmp_path: Path) -> str:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def test_python_gets_verdicts_counts_and_agreement(problems: str) -> None:
    report = judge(problems, "final_number")
    assert [each.verdict.label for each in report.judged] == [1, 0, 0, 1]
    assert report.counts == {"1": 2, "0": 1, "0: no number": 1}
    assert report.agreement == {"compared": 3, "agree": 2, "higher": 0, "lower": 1, "share": 2 / 3}
    assert [each.response.text for each in report.disagreements] == ["#### 17"]
    assert report.results()["mean"] == 0.5


def test_the_command_writes_verdicts_counts_and_examples(
    problems: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", problems, "verifier=final_number", f"into={tmp_path / 'out'}", "examples=1"]) == 0
    assert "0: no number" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert lines[1] == {"query_id": "a", "response": "1", "label": 0.0, "reason": "", "answer": "17", "given": 1.0}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["counts"] == {"1": 2, "0": 1, "0: no number": 1} and report["agreement"]["lower"] == 1
    groups = list(JsonLines(str(tmp_path / "out" / "groups.jsonl")).groups())
    assert [(group.query_id, [each.label for each in group.candidates]) for group in groups] == [
        ("a", [1, 0]),
        ("b", [0, 1]),
    ]
    assert [task.reference for task in Problems(str(tmp_path / "out" / "groups.jsonl")).problems()] == ["18", "3"]
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## 1 (2)" in page and "## differs from the given label (1)" in page and page.count("\n~~~\n") == 8


def test_labelled_groups_keep_the_chat_that_was_asked(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "6 x 3?"}]
    rows = [{"query_id": "a", "messages": chat, "answer": "18", "candidates": ["#### 18"]}, {**ROWS[1]}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = list(judge(str(tmp_path / "chats.jsonl"), "final_number").groups())
    assert [json.loads(line).get("messages") for line in groups] == [chat, None]
    (tmp_path / "groups.jsonl").write_text("".join(groups))
    first, _ = Problems(str(tmp_path / "groups.jsonl")).problems()
    assert (first.query, first.messages, first.reference) == ("6 x 3?", chat, "18")


def test_options_of_the_verifier_and_the_source_are_set(problems: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["verifier=exact_match", "verifier.stated=true", "source=problems", "source.prompt=mathematics"]
    assert main(["judge", problems, *options]) == 0
    assert "0: no answer" in capsys.readouterr().out


def test_a_result_file_is_read_with_its_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.json"
    path.write_text(
        json.dumps([{"session_id": "1", "problem": "q", "answer": "12", "output": ["<answer>12</answer>"]}])
    )
    assert source_of(str(path)) == "results"
    assert main(["judge", str(path), "verifier=final_number"]) == 0
    assert "1 responses in" in capsys.readouterr().out


def test_programs_of_human_eval_are_run(tmp_path: Path) -> None:
    task = {"task_id": "HumanEval/0", "prompt": "def f(a):\n", "canonical_solution": "    return a\n",
    "entry_point": "f",
            "test": "def check(f):\n    assert f(1) == 1\n"}  # fmt: skip
    samples = [{"task_id": "HumanEval/0", "completion": f"    return {value}\n"} for value in ("a", "2")]
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(task) + "\n")
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in samples))
    into = tmp_path / "out"
    tasks = ["tasks=humaneval", f"tasks.path={tmp_path / 'HumanEval.jsonl'}"]
    assert main(["judge", str(tmp_path / "samples.jsonl"), "verifier=unit_tests", *tasks, f"into={into}"]) == 0
    assert [json.loads(line)["label"] for line in (into / "verdicts.jsonl").read_text().splitlines()] == [1, 0]


def test_judging_loads_no_torch() -> None:
    code = "import sys, features.commands.judge, features.verifiers.function_calls; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_mistakes_are_told(problems: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", problems, "verifier=final_numbers"]) == 1
    assert "final_number" in capsys.readouterr().err
    assert main(["judge", str(tmp_path / "none.jsonl"), "verifier=final_number"]) == 1
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["judge", problems])
    assert "name a verifier: verifier=NAME" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").write_text('{"query": "q", "answer": "1", "candidates": []}\n')
    with pytest.raises(ConfigError, match="has no recorded response"):
        judge(str(tmp_path / "empty.jsonl"), "final_number")


def test_a_page_shows_examples_from_the_whole_file_and_cuts_long_texts() -> None:
    task = Task("q", "query", [], "1")
    judged = [Judged(task, Response(str(n), f"{'x' * 500}~~~~ {n}"), Verdict(0.0, "no answer")) for n in range(100)]
    page = VerdictReport(judged).page(20)
    assert page.count("response `") == 20 and "response `95`" in page and "\n~~~\n…xxx" in page
