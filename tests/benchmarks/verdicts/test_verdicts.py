"""python -m benchmarks verdicts: what is known of public answers, and where verdicts differ from it."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import machine
from benchmarks.__main__ import main
from benchmarks.verdicts.call_notations import NOTATIONS
from benchmarks.verdicts.checks import CHECKS
from benchmarks.verdicts.command import judged, run_verdicts


@pytest.fixture
def data(tmp_path: Path) -> Path:
    def write(name: str, *rows: object) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    labelled = [
        {"text": "A: 18", "label": 1},
        {"text": "A: 17", "label": 1},
        {"text": "A: 16", "label": 0},
        {"text": "18"},
    ]
    write("gsm8k_solutions/groups.jsonl", {"query_id": "g", "query": "q", "answer": "18", "candidates": labelled})
    recorded = [{"text": r"\boxed{1/2}"}, {"text": r"\boxed{3}"}, {"text": r"\boxed{x}"}]
    write("math_level5/responses.jsonl", {"query_id": "m", "query": "q", "answer": "0.5", "candidates": recorded})
    golds = [r"\boxed{2}", r"\boxed{\frac12}", r"\boxed{4}", r"\boxed{4}"]
    rows = [
        {"problem": f"p{n}", "solution": each, "type": "Algebra", "level": "Level 1"} for n, each in enumerate(golds)
    ]
    write("math/train.jsonl", *rows)
    function = {"name": "a.b", "parameters": {"type": "dict", "properties": {"x": {"type": "integer"}}}}
    for category in ("simple_python", "multiple", "parallel", "parallel_multiple"):
        row = {"id": category, "question": [[{"role": "user", "content": "q"}]], "function": [function]}
        write(f"bfcl/BFCL_v4_{category}.json", row)
        answer = {"id": category, "ground_truth": [{"a.b": {"x": [1], "y": ["", 2]}}]}
        write(f"bfcl/possible_answer/BFCL_v4_{category}.json", answer)
    return tmp_path


def test_labels_that_differ_are_counted_and_listed(data: Path) -> None:
    found = judged(CHECKS["gsm8k_solutions"], data / "gsm8k_solutions")
    assert (found["responses"], found["agree"], found["differ"], found["undecided"]) == (3, 2, 1, 0)
    assert [(each["task"], each["verdict"], each["expected"]) for each in found["differing"]] == [("g", "0", 1.0)]


def test_mathematics_is_compared_with_fractions_and_itself(data: Path) -> None:
    recorded = judged(CHECKS["math_level5"], data / "math_level5")
    assert recorded["kinds"] == {"numbers": {"agree": 2}}
    golds = judged(CHECKS["math"], data / "math")
    assert golds["kinds"] == {"own answer": {"agree": 4}, "another number": {"agree": 1}}


def test_calls_are_right_in_every_notation_and_wrong_when_changed(data: Path) -> None:
    found = judged(CHECKS["bfcl"], data / "bfcl")
    assert found["kinds"] == {name: {"agree": 4} for name in (*NOTATIONS, "less", "twice")}


def test_the_command_prints_counts_and_writes_results(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    assert main(["verdicts", f"data={data}", "--results", str(data / "results")]) == 0
    printed = capsys.readouterr().out
    assert "gsm8k_solutions: 1 of 3 differ" in printed and "gsm8k_solutions g: 0, expected 1: 'A: 17'" in printed
    written = json.loads((data / "results" / "verdicts.json").read_text())
    assert set(written["sources"]) == {"gsm8k_solutions", "math_level5", "math", "bfcl"} and "made_with" in written


def test_without_data_it_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "limit_cores", lambda count: None)
    assert main(["verdicts", f"data={tmp_path}", "--results", str(tmp_path)]) == 1
    assert "has none of the folders bfcl, gsm8k_solutions, math, math_level5, mbpp" in " ".join(
        capsys.readouterr().out.split()
    )


def test_programs_are_judged_too(tmp_path: Path) -> None:
    (tmp_path / "mbpp").mkdir()
    row = {"task_id": 11, "text": "q", "code": "def f(a):\n    return a", "test_list": ["assert f(1) == 1"]}
    wrong = row | {"task_id": 12, "code": "def f(a):\n    return 2"}
    (tmp_path / "mbpp" / "mbpp.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(wrong) + "\n")
    checks = {"mbpp": CHECKS["mbpp"]}
    assert run_verdicts(tmp_path, tmp_path / "results", Console(quiet=True), checks) == 1
