import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import Comparison
from benchmarks.speed.responses import mutants
from benchmarks.speed.training.workload import TINY

TASKS = [
    ("def larger(a, b):\n    return a if a > b else b", ["assert larger(1, 2) == 2", "assert larger(5, 3) == 5"]),
    ("def half(x):\n    return x / 2 if not x < 0 else -1", ["assert half(4) == 2", "assert half(-3) == -1"]),
    ("def wrong(x):\n    return x + 1", ["assert wrong(1) == 3"]),
]


@pytest.fixture
def mbpp(tmp_path: Path) -> Path:
    lines = [
        {"task_id": 20 + place, "text": "a task", "code": code, "test_list": tests, "test_setup_code": ""}
        for place, (code, tests) in enumerate(TASKS)
    ]
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_sandbox_and_interpreter_agree_on_mutants_and_solutions(
    mbpp: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    results = complete(mutants.measure(mbpp, TINY, repeats=1), 1)
    assert results["differing"] == [] and results["solutions"] == {"pass": 2, "fail": 1}
    assert [fails["task"] for fails in results["solutions_that_fail"]] == ["mbpp-22"]
    # a > b to a >= b, x < 0 to x <= 0 and to x < 1 change nothing, x + 1 to x + 2 is right; the others are wrong.
    assert results["mutants"] == {"pass": 5, "fail": 8}


def test_each_mutant_has_one_thing_changed() -> None:
    code = "def f(a, b):\n    a += 1\n    return a < b <= -a and not b in (1, 2)"
    found = dict(mutants.mutants(code))
    assert len(found) == 12 and len(set(found.values())) == 12
    assert found["2 to 3 in line 3"] == ast.unparse(ast.parse(code.replace("2)", "3)")))
    assert found["Add to Sub in line 2"] == ast.unparse(ast.parse(code.replace("+=", "-=")))
    assert found["LtE to Gt in line 3"] == ast.unparse(ast.parse(code.replace("<=", ">")))
    assert found["USub to UAdd in line 3"] == ast.unparse(ast.parse(code.replace("-a", "+a")))
