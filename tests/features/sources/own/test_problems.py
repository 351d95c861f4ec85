"""Problems from files of one's own, and the responses that exist to them."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from features.sources.own.problems import Problems
from features.texts.prompts import mathematics, plain
from features.texts.tasks import Response, Task
from registry import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.jsonl"


def read(path: Path, *rows: Any, **options: Any) -> list[Task]:
    if rows:
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return list(Problems(str(path), **options).problems())


def test_a_line_needs_a_query_and_nothing_else(path: Path) -> None:
    (found,) = read(path, {"query": "Why?"})
    assert found == Task("mine.jsonl-1", "Why?", plain("Why?"), responses=[], origin="mine.jsonl, line 1")
    assert read(path, {"query": "1+1?", "id": 7}, prompt="mathematics")[0].messages == mathematics("1+1?")


def test_messages_are_taken_as_they_are(path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    (found,) = read(path, {"id": "a", "messages": [{**each, "extra": 1} for each in messages]}, prompt="mathematics")
    assert (found.query, found.messages) == ("Why?", messages)
    assert read(path, {"id": "a", "query": "Shown.", "messages": messages})[0].query == "Shown."


@pytest.mark.parametrize(("fields", "reference"), [
    ({}, None),
    ({"answer": "18"}, "18"),
    ({"answer": 18}, "18"),
    ({"answer": 0.5}, "0.5"),
    ({"answer": ["Rome", 7]}, ["Rome", "7"]),
    ({"answer": None, "tests": None}, None),
    ({"tests": ["assert f()"]}, {"tests": ["assert f()"], "setup": "", "entry_point": None, "prelude": ""}),
    (
        {"tests": ["assert f()"], "setup": "s", "entry_point": "f", "prelude": "p"},
        {"tests": ["assert f()"], "setup": "s", "entry_point": "f", "prelude": "p"},
    ),
    (
        {"calls": [{"name": "f", "arguments": {"a": 1}}], "functions": [{"name": "f", "parameters": {"a": {}}}]},
        {"calls": [{"name": "f", "arguments": {"a": 1}}], "parameters": {"f": {"a": ""}}},
    ),
    (
        {"accepted": [{"name": "f", "arguments": {"a": [1, ""]}}]},
        {"accepted": [{"name": "f", "arguments": {"a": [1, ""]}}], "parameters": {}},
    ),
    ({"reference": {"anything": [1]}}, {"anything": [1]}),
])  # fmt: skip
def test_a_reference_has_the_form_that_its_verifier_reads(fields: dict[str, Any], reference: Any, path: Path) -> None:
    assert read(path, {"id": "a", "query": "Why?", **fields})[0].reference == reference


def test_recorded_responses_come_with_their_labels_in_their_order(path: Path) -> None:
    group = {
        "query_id": "g1", "query": "Why?", "answer": "18", "split": "val",
        "candidates": [
            {"id": "m1", "text": "A: 18", "label": 1},
            {"id": "m2", "text": "A: 18", "label": True, "log_probability": -3},
            {"id": "x", "text": ""}, {"text": "A: 17", "label": 0.0},
        ],
    }  # fmt: skip
    (found,) = read(path, group)
    assert (found.query_id, found.reference, found.split) == ("g1", "18", "val")
    assert found.responses == [
        Response("m1", "A: 18", 1.0), Response("m2", "A: 18", 1.0, log_probability=-3.0),
        Response("x", ""), Response("3", "A: 17", 0.0),
    ]  # fmt: skip


def test_responses_may_be_texts(path: Path) -> None:
    (found,) = read(path, {"query": "Why?", "responses": ["a", "", "a"]})
    assert found.responses == [Response("0", "a"), Response("1", ""), Response("2", "a")]


def test_parquet_and_several_files_are_read(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "query": "Why?", "answer": "1", "split": None},
        {"id": "b", "query": "What?", "answer": None, "split": "train"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "one.parquet")
    (tmp_path / "two.json").write_text(json.dumps([{"id": "c", "query": "Who?"}], indent=2))
    source = Problems([str(tmp_path / "*.parquet"), str(tmp_path / "two.json")])
    assert [(each.query_id, each.reference, each.split) for each in source.problems()] == [
        ("a", "1", None), ("b", None, "train"), ("c", None, None)
    ]  # fmt: skip
    assert [file["name"] for file in source.fingerprint()["files"]] == ["one.parquet", "two.json"]


@pytest.mark.parametrize(("row", "problem"), [
    ("{", "not valid JSON"),
    ({}, "query: missing; expected text"),
    ({"query": ""}, "query: empty; expected text"),
    ({"query": "Why?", "id": 1.5}, "id: found 1.5, expected text"),
    ({"query": "Why?", "split": "dev"}, 'split: found "dev", expected train, val or test'),
    ({"messages": []}, "messages: found [], expected a list of messages"),
    ({"messages": [{"role": "me", "content": "a"}]}, 'messages[0].role: found "me", expected one of assistant, system'),
    ({"messages": [{"role": ["user"], "content": "a"}]}, 'messages[0].role: found ["user"], expected one of assistant'),
    ({"query": "Why?", "candidates": ["a"], "responses": ["b"]}, "responses: given together with candidates"),
    ({"query": "Why?", "candidates": [{"text": "a", "label": 1e39}]}, "candidates[0].label: found 1e+39, which"),
    ({"messages": [{"role": "user"}]}, "messages[0].content: missing; expected text"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, 'messages[0].role: found "assistant", expected user'),
    ({"query": "Why?", "answer": "1", "tests": ["a"]}, "tests: given together with answer; expected only one"),
    ({"query": "Why?", "answer": {"a": 1}}, 'answer: found {"a": 1}, expected text'),
    ({"query": "Why?", "tests": []}, "tests: found [], expected a list of texts, at least one"),
    ({"query": "Why?", "tests": ["a"], "setup": 3}, "setup: found 3, expected text"),
    ({"query": "Why?", "tests": ["a"], "entry_point": 3}, "entry_point: found 3, expected text"),
    ({"query": "Why?", "tests": ["a"], "entry_point": "f("}, 'entry_point: found "f(", expected the name of a'),
    ({"query": "Why?", "calls": [{"name": "f"}]}, 'calls[0]: found {"name": "f"}, expected {"name": text, "arguments"'),
    ({"query": "Why?", "calls": {}}, "calls: found {}, expected a list of"),
    ({"query": "Why?", "accepted": [{"name": "f", "arguments": {"a": 1}}]}, "accepted[0].arguments: found"),
    (
        {"query": "Why?", "accepted": [{"name": "f", "arguments": {"a": [{"x": 1}]}}]},
        "accepted[0].arguments: found",
    ),
    ({"query": "Why?", "calls": [], "functions": [{"function": "f"}]}, "functions: found [{"),
    ({"query": "Why?", "calls": [], "functions": "f"}, 'functions: found "f", expected a list of functions'),
    ({"query": "Why?", "candidates": [{"id": "a"}]}, 'candidates[0]: found {"id": "a"}, expected a text or an object'),
    ({"query": "Why?", "responses": ["\ud83d"]}, "responses[0]: half of a surrogate pair at character 0"),
    ({"query": "Why?", "candidates": [{"text": "a\ud83d"}]}, "candidates[0].text: half of a surrogate pair"),
    ({"query": "Why?", "candidates": [{"text": "a", "label": "right"}]}, 'candidates[0].label: found "right"'),
    ({"query": "Why?", "responses": [{"text": "a", "id": "x"}] * 2}, "responses: two have the id 'x'"),
    ({"query": "Why?", "responses": "a"}, 'responses: found "a", expected a list of texts or objects'),
    ({"query": "Why?", "id": "first"}, "query_id: 'first' was already used in mine.jsonl, line 1"),
])  # fmt: skip
def test_a_bad_line_is_named_with_what_is_wrong(row: Any, problem: str, path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read(path, {"query": "Why?", "id": "first"}, row)
    assert f"one line cannot be read:\n  mine.jsonl, line 2: {problem}" in str(raised.value)


def test_all_bad_lines_are_named_at_once(path: Path) -> None:
    with pytest.raises(ConfigError, match="3 lines cannot be read") as raised:
        read(path, {}, {"query": "Why?"}, {}, "[]")
    assert "\n  mine.jsonl, lines 1 and 3: query: missing" in str(raised.value)
    assert "\n  mine.jsonl, line 4: found a list" in str(raised.value)


def test_no_file_and_no_line_are_errors(path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file, and no file matches it"):
        read(path)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="holds nothing"):
        read(path)
