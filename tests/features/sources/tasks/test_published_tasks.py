"""The published sets of problems, read as their publishers write them, in files of the same form made here."""

import gzip
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from features.reading import downloads
from features.sources.tasks import (
    alpaca_eval,
    bfcl,
    dolly,
    gsm8k,
    humaneval,
    humaneval_plus,
    math,
    mbpp,
    mbpp_plus,
    xlam,
)
from features.texts.prompts import coding, function_calling, instruction, mathematics
from features.texts.tasks import Task, TaskSource
from registry import SOURCES, ConfigError

Rows = Sequence[dict[str, Any]]
MODULES = [alpaca_eval, bfcl, dolly, gsm8k, humaneval, humaneval_plus, math, mbpp, mbpp_plus, xlam]


def read(name: str, path: Path | None, **options: Any) -> list[Task]:
    source = SOURCES.build({"name": name, "path": None if path is None else str(path), **options})
    assert isinstance(source, TaskSource)
    found = list(source.problems())
    assert found == list(source.problems()) and len({problem.query_id for problem in found}) == len(found)
    fingerprint = json.dumps(source.fingerprint())
    assert json.loads(fingerprint)["name"] == name
    assert all(problem.messages[-1]["role"] == "user" and problem.origin for problem in found)
    return found


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


# MATH


def competition(split: str, number: int) -> dict[str, str]:
    subject = ("Algebra", "Geometry", "Number Theory")[number % 3]
    level = f"Level {number % 2 + 1}" if number % 30 else "Level ?"
    solution = rf"First \boxed{{0}}, then $\boxed{{\frac{{{number}}}{{7}}}}$."
    return {"problem": f"{split} problem {number}", "level": level, "type": subject, "solution": solution}


PARTS = {split: [competition(split, number) for number in range(90)] for split in ("train", "test")}


@pytest.fixture
def math_forms(tmp_path: Path) -> dict[str, Path]:
    forms = {form: tmp_path / form for form in ("lines", "folders", "parquet")}
    with tarfile.open(tmp_path / "MATH.tar", "w") as archive:
        for split, rows in PARTS.items():
            write(forms["lines"] / f"{split}.jsonl", rows)
            write(forms["parquet"] / "data" / f"{split}-00000-of-00001.parquet", rows)
            for number, row in enumerate(rows):
                content = json.dumps(row, indent=4)
                file = forms["folders"] / split / row["type"].lower() / f"{number}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content)
                member = tarfile.TarInfo(f"MATH/{split}/{row['type'].lower()}/{number}.json")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))
    return {**forms, "archive": tmp_path / "MATH.tar"}


def test_math_is_the_same_in_every_form(math_forms: dict[str, Path]) -> None:
    found = {form: read("math", path, num_train=12, num_test=6) for form, path in math_forms.items()}
    drawn = {form: {(each.query_id, each.reference, each.split) for each in those} for form, those in found.items()}
    assert all(those == drawn["lines"] for those in drawn.values())
    assert Counter(each.split for each in found["lines"]) == {"train": 12, "test": 6}
    one = found["lines"][0]
    number = int(one.query.rpartition(" ")[2])
    assert one.reference == rf"\frac{{{number}}}{{7}}" and one.messages == mathematics(one.query)
    assert one.origin == f"train.jsonl, line {number + 1}"


@pytest.mark.parametrize("number", [6, 12, 27, 57])
def test_math_is_drawn_evenly_over_subjects_and_levels(number: int, math_forms: dict[str, Path]) -> None:
    found = read("math", math_forms["lines"], num_train=number, num_test=0)
    rows = {row["problem"]: (row["type"], row["level"]) for row in PARTS["train"]}
    cells = Counter(rows[each.query] for each in found)
    assert len(found) == number and len(cells) == 6 and all(level != "Level ?" for _, level in cells)
    available = Counter(cell for cell in rows.values() if cell[1] != "Level ?")
    lowest = min(count for cell, count in cells.items() if count < available[cell])
    assert max(cells.values()) <= lowest + 1


def test_math_takes_all_or_some_subjects_and_levels_and_another_seed_draws_others(math_forms: dict[str, Path]) -> None:
    path = math_forms["lines"]
    assert len(read("math", path, num_train=None, num_test=None)) == 180
    some = read("math", path, num_train=None, num_test=0, subjects=["Geometry"], levels=[1])
    assert {each.query for each in some} == {
        row["problem"] for row in PARTS["train"] if row["type"] == "Geometry" and row["level"] == "Level 1"
    }
    drawn = [{each.query_id for each in read("math", path, num_train=20, seed=seed)} for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {each.query_id for each in read("math", path, num_train=10)} < {
        each.query_id for each in read("math", path, num_train=40)
    }


def test_a_solution_without_an_answer_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [competition("train", 1), {**competition("train", 2), "solution": "None."}])
    with pytest.raises(
        ConfigError, match=r"train.jsonl: one line cannot be read:\n  train.jsonl, line 2: solution: has no"
    ):
        read("math", tmp_path)


# GSM8K


def test_gsm8k_has_the_number_after_the_marks(tmp_path: Path) -> None:
    rows = [{"question": f"How many, {n}?", "answer": f"It is <<1,00{n}=1,00{n}>>.\n#### 1,00{n}"} for n in range(9)]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "test.jsonl.gz", rows[:4])
    found = read("gsm8k", tmp_path)
    assert [each.query_id for each in found] == [
        *(f"gsm8k-train-{n}" for n in range(9)),
        *(f"gsm8k-test-{n}" for n in range(4)),
    ]
    assert (found[3].query, found[3].reference, found[3].split) == ("How many, 3?", "1003", "train")
    assert Counter(each.split for each in read("gsm8k", tmp_path, num_train=5, num_test=2)) == {"train": 5, "test": 2}
    assert {each.split for each in read("gsm8k", tmp_path / "test.jsonl.gz")} == {"test"}
    write(tmp_path / "train.jsonl", [{"question": "a", "answer": "3"}])
    with pytest.raises(ConfigError, match="line 1: answer: has no #### with the answer after it"):
        read("gsm8k", tmp_path)


# MBPP and HumanEval


def task(number: int) -> dict[str, Any]:
    return {
        "task_id": number,
        "text": f"Write a function to add {number}.",
        "code": f"import math\r\ndef helper(x):\r\n    return x\r\ndef add(x):\r\n    return helper(x) + {number}",
        "test_setup_code": "ready = True" if number == 11 else "",
        "test_list": [f"assert abs(add(1)) == {number + 1}", f"assert add(2) == {number + 2}"],
        "challenge_test_list": [],
    }


def test_mbpp_is_split_by_its_numbers_as_published(tmp_path: Path) -> None:
    write(tmp_path / "mbpp.jsonl", [task(number) for number in range(1, 975)])
    found = read("mbpp", tmp_path)
    assert Counter(each.split for each in found) == {"train": 374, "test": 500, "val": 90}
    numbers = {
        split: [int(each.query_id[5:]) for each in found if each.split == split] for split in ("test", "val", "train")
    }
    assert [(min(those), max(those)) for those in numbers.values()] == [(11, 510), (511, 600), (601, 974)]
    everything = read("mbpp", tmp_path, prompting=True, solutions=True)
    assert len(everything) == 974 and everything[0].split is None and not found[0].responses
    assert everything[0].responses[0].text == task(1)["code"].replace("\r\n", "\n")
    assert Counter(each.split for each in read("mbpp", tmp_path, num_train=7, num_test=3, num_val=0)) == {
        "train": 7,
        "test": 3,
    }


def test_a_task_of_mbpp_has_its_tests_and_the_function_they_call(tmp_path: Path) -> None:
    found = read("mbpp", write(tmp_path / "mbpp.jsonl", [task(11), task(12)]))
    assert found[0].reference == {
        "tests": task(11)["test_list"], "setup": "ready = True", "entry_point": "add", "prelude": ""
    }  # fmt: skip
    assert found[0].messages == coding("Write a function to add 11.", "assert abs(add(1)) == 12")
    assert "Test Example:\n\nassert abs(add(1)) == 12\n\n" in found[0].messages[1]["content"]


def test_sanitized_mbpp_is_a_list_of_tasks_with_prompts_and_imports(tmp_path: Path) -> None:
    row = {**task(602), "prompt": "Add it.", "test_imports": ["import math", "import re"]}
    row = {key: value for key, value in row.items() if key not in ("text", "test_setup_code")}
    (tmp_path / "sanitized-mbpp.json").write_text(json.dumps([row], indent=2))
    (found,) = read("mbpp", tmp_path)
    assert (found.query, found.reference["setup"]) == ("Add it.", "import math\nimport re")


@pytest.mark.parametrize(("change", "problem"), [
    ({"test_list": []}, "test_list: has no test"),
    ({"test_list": "assert"}, 'test_list: found "assert", expected a list of texts'),
    ({"task_id": "1"}, 'task_id: found "1", expected a whole number'),
    ({"text": ""}, "text: empty"),
])  # fmt: skip
def test_a_bad_task_is_named(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    write(tmp_path / "mbpp.jsonl", [task(11), {**task(12), **change}])
    with pytest.raises(ConfigError) as raised:
        read("mbpp", tmp_path)
    assert f"  mbpp.jsonl, line 2: {problem}" in str(raised.value)


PROMPT = 'def add(x):\n    """Add one.\n    >>> add(1)\n    2\n    """\n'
TEST = "def check(candidate):\n    assert candidate(1) == 2\n"


@pytest.mark.parametrize(("row", "file"), [
    ({"task_id": "HumanEval/7", "entry_point": "add", "test": TEST}, "HumanEval.jsonl.gz"),
    ({"task_id": "Python/7", "test": f"{TEST}\ncheck(add)"}, "humaneval.jsonl"),
    ({"task_id": "HumanEval/7", "entry_point": "add", "test": TEST}, "data/test-0.parquet"),
])  # fmt: skip
def test_a_task_of_humaneval_can_be_run_in_each_form(row: dict[str, Any], file: str, tmp_path: Path) -> None:
    write(tmp_path / file, [{**row, "prompt": PROMPT, "canonical_solution": "    return x + 1\n"}])
    (found,) = read("humaneval", tmp_path, solutions=True)
    assert (found.query_id, found.split, found.reference["entry_point"]) == ("humaneval-7", "test", "add")
    assert found.reference["prelude"] == PROMPT and len(found.reference["tests"]) == 1
    assert found.messages == coding(PROMPT.strip())
    space: dict[str, Any] = {}
    exec(found.responses[0].text + "\n" + found.reference["tests"][0], space)
    with pytest.raises(AssertionError):
        exec(f"{PROMPT}    return x\n" + found.reference["tests"][0], space)
    assert read("humaneval", tmp_path, splits="drawn")[0].split is None


def test_a_task_of_humaneval_without_a_function_to_test_is_named(tmp_path: Path) -> None:
    write(tmp_path / "humaneval.jsonl", [{"task_id": "1", "prompt": PROMPT, "canonical_solution": "x", "test": TEST}])
    with pytest.raises(ConfigError, match=r"line 1: entry_point: missing, and the test does not end in check\(...\)"):
        read("humaneval", tmp_path)


# Function calling


def call_row(number: int) -> dict[str, Any]:
    tools = [{"name": f"f{n}", "description": "d", "parameters": {"a": {"type": "int"}}} for n in range(number % 6 + 1)]
    answers = [{"name": "f0", "arguments": {"a": number}}]
    return {"id": number, "query": f"Do {number}.", "tools": json.dumps(tools), "answers": json.dumps(answers)}


def test_xlam_draws_tasks_that_offer_more_than_three_functions(tmp_path: Path) -> None:
    rows = [call_row(number) for number in range(60)]
    (tmp_path / "xlam_function_calling_60k.json").write_text(json.dumps(rows))
    found = read("xlam", tmp_path, num_train=12, num_test=6)
    assert Counter(each.split for each in found) == {"train": 12, "test": 6}
    numbers = [int(each.query_id.removeprefix("xlam-")) for each in found]
    assert all(number % 6 + 1 > 3 for number in numbers) and numbers == sorted(numbers)
    one, row = found[0], rows[numbers[0]]
    assert one.reference["calls"] == json.loads(row["answers"])
    assert one.reference["parameters"]["f3"] == {"a": "int"}
    assert one.messages == function_calling(row["query"], json.loads(row["tools"]))
    assert len(read("xlam", tmp_path, min_functions=1)) == 60
    assert {each.query_id for each in read("xlam", tmp_path, num_train=12, num_test=6, seed=1)} != {
        each.query_id for each in found
    }


@pytest.mark.parametrize(("change", "problem"), [
    ({"answers": "[{"}, "answers: not valid JSON"),
    ({"tools": "[]"}, "tools: found [], expected a list of objects, or its JSON"),
    ({"answers": [{"name": "f"}]}, 'answers[0]: found {"name": "f"}, expected {"name": text, "arguments": {...}}'),
])  # fmt: skip
def test_a_bad_row_of_xlam_is_named(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read("xlam", write(tmp_path / "x.jsonl", [call_row(1), {**call_row(2), **change}]))
    assert f"  x.jsonl, line 2: {problem}" in str(raised.value)


FUNCTION = {"name": "area", "description": "d", "parameters": {"type": "dict", "properties": {"base": {}, "unit": {}}}}


def berkeley(folder: Path, category: str, name: str = "BFCL_v4_{}.json", answered: Sequence[int] = (0, 1)) -> None:
    tasks = [
        {"id": f"{category}_{n}", "question": [[{"role": "user", "content": f"Do {n}."}]], "function": [FUNCTION]}
        for n in (0, 1)
    ]
    answers = [
        {"id": f"{category}_{n}", "ground_truth": [{"area": {"base": [n], "unit": ["m", ""]}}]} for n in answered
    ]
    write(folder / name.format(category), tasks)
    write(folder / "possible_answer" / name.format(category), answers)


def test_bfcl_joins_tasks_and_accepted_values(tmp_path: Path) -> None:
    for category in ("simple_python", "multiple", "parallel", "parallel_multiple"):
        berkeley(tmp_path, category)
    found = read("bfcl", tmp_path)
    assert len(found) == 8 and {each.split for each in found} == {"test"}
    assert found[1].reference == {
        "accepted": [{"name": "area", "arguments": {"base": [1], "unit": ["m", ""]}}],
        "parameters": {"area": {"base": "", "unit": ""}},
    }  # fmt: skip
    assert found[1].messages == function_calling("Do 1.", [FUNCTION])
    assert [each.query_id for each in read("bfcl", tmp_path, categories=["parallel"])] == [
        "bfcl-parallel_0",
        "bfcl-parallel_1",
    ]
    assert {each.split for each in read("bfcl", tmp_path, splits="drawn")} == {None}


def test_bfcl_says_what_is_missing(tmp_path: Path) -> None:
    berkeley(tmp_path, "multiple", answered=[0])
    with pytest.raises(ConfigError, match=r"line 2: task 'multiple_1' has no answer in possible_answer/BFCL_v4"):
        read("bfcl", tmp_path, categories=["multiple"])
    with pytest.raises(ConfigError, match=r"has no BFCL_v4_parallel.json.\n  What to do:   get it from https"):
        read("bfcl", tmp_path, categories=["parallel", "multiple"])
    berkeley(tmp_path / "older", "simple", "BFCL_v3_{}.json")
    assert len(read("bfcl", tmp_path / "older", categories=["simple_python"])) == 2


# Instructions


def test_dolly_takes_the_first_and_reads_both_forms(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Tell {n}.", "context": "It is.\n" if n % 2 else "", "response": f"r{n}", "category": "c"}
        for n in range(9)
    ]
    found = read("dolly", write(tmp_path / "databricks-dolly-15k.jsonl", rows), num_train=5)
    assert [(each.query_id, each.query, each.reference, each.split) for each in found[:2]] == [
        ("dolly-0", "Tell 0.", "r0", "train"), ("dolly-1", "Tell 1.\n\nIt is.", "r1", "train")
    ]  # fmt: skip
    assert len(found) == 5 and found[0].messages == instruction("Tell 0.")
    below = "Below is an instruction that describes a task. Write it.\n\n### Instruction:\nTell {}.{}\n\n### Response:"
    prompts = [
        {"prompt": below.format(n, "\n\n### Input:\nIt is." if n % 2 else ""), "answer": f"r{n}"} for n in range(9)
    ]
    as_prompts = read("dolly", write(tmp_path / "prompts.jsonl", prompts), num_train=5)
    assert [(each.query, each.reference) for each in as_prompts] == [(each.query, each.reference) for each in found]


def test_alpaca_eval_is_a_list_of_instructions_to_test(tmp_path: Path) -> None:
    rows = [{"instruction": f"Tell {n}.", "output": f"o{n}", "generator": "g", "dataset": "d"} for n in range(4)]
    (tmp_path / "alpaca_eval.json").write_text(json.dumps(rows, indent=1))
    found = read("alpaca_eval", tmp_path, num_test=3)
    assert [(each.query, each.reference, each.split) for each in found][2] == ("Tell 2.", "o2", "test")
    assert len(found) == 3


# What all share


@pytest.mark.parametrize("module", MODULES)
def test_what_is_downloaded_is_named_with_its_terms(module: Any) -> None:
    for download in module.DOWNLOADS.values():
        assert download.url.startswith("https://") and download.terms
        assert download.hash is None or len(download.hash) == 64


@pytest.mark.parametrize(
    "name",
    ["alpaca_eval", "bfcl", "dolly", "gsm8k", "humaneval", "humaneval_plus", "math", "mbpp", "mbpp_plus", "xlam"],
)
def test_without_network_or_files_it_says_what_to_put_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "FOLDER", tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", _offline)
    source = SOURCES.build({"name": name})
    source.fingerprint()  # is known without any file  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"cannot be downloaded \(no route to host\)") as raised:
        list(source.problems())  # type: ignore[attr-defined]
    assert f"put it at {tmp_path}/" in str(raised.value)
    with pytest.raises(ConfigError, match="no such file or folder") as raised:
        read(name, tmp_path / "nowhere")
    assert "set features.source.path to" in str(raised.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has none of its files"):
        read(name, tmp_path / "empty")


def test_a_download_is_read_as_a_copy_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "mbpp.jsonl", [task(11), task(601)])
    fetched: list[Any] = []
    monkeypatch.setattr("features.reading.published.fetch", lambda download: fetched.append(download) or file)
    assert read("mbpp", None) == read("mbpp", file)
    assert set(fetched) == {mbpp.DOWNLOADS["all"]}


def test_a_damaged_archive_is_named(math_forms: dict[str, Path]) -> None:
    archive = math_forms["archive"]
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"MATH.tar, .* is damaged"):
        read("math", archive)


def _offline(*arguments: Any, **options: Any) -> Callable[..., Any]:
    raise OSError("no route to host")
