"""Record files in JSON: a list, a single object, or objects one a line, as `.json` files come."""

import json
from pathlib import Path
from typing import Any

import pytest

from features.reading.records import RecordFile
from registry import ConfigError

ROWS = [{"a": 1, "b": {"c": [2]}}, {"a": 2}]


def rows(path: Path) -> list[tuple[Any, str]]:
    return list(RecordFile(path).parsed((), lambda record, place: (dict(record), place)))


@pytest.mark.parametrize(
    "content", [json.dumps(ROWS), json.dumps(ROWS, indent=2), f"\n\n{json.dumps(ROWS, indent=1)}\n"]
)
def test_a_list_has_a_row_for_each_item(content: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(content)
    assert rows(tmp_path / "rows.json") == [(ROWS[0], "rows.json, item 1"), (ROWS[1], "rows.json, item 2")]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_inside_an_object_has_a_row_for_each_item(indent: int | None, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps({"version": "1", "data": ROWS}, indent=indent))
    assert rows(tmp_path / "rows.json") == [(ROWS[0], "rows.json, item 1"), (ROWS[1], "rows.json, item 2")]


@pytest.mark.parametrize("row", [
    {"query": "a", "candidates": ROWS}, {"data": ROWS, "more": ROWS}, {"data": [1]}, {"data": []}, {"messages": ROWS},
])  # fmt: skip
def test_an_object_with_another_list_is_a_row(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(row, indent=1))
    assert [found for found, _ in rows(tmp_path / "rows.json")] == [row]


def test_objects_one_a_line_are_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, ROWS)))
    assert rows(tmp_path / "rows.json") == [(ROWS[0], "rows.json, line 1"), (ROWS[1], "rows.json, line 2")]


def test_one_object_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text(json.dumps(ROWS[0], indent=4))
    assert rows(tmp_path / "row.json") == [(ROWS[0], "row.json, item 1")]


@pytest.mark.parametrize(("content", "problem"), [
    ('[{"a": 1}, 3]', "rows.json, item 2: found 3, expected an object"),
    ('[{"a": 1},\n', "rows.json: not valid JSON: Expecting value"),
    ("", "rows.json: holds nothing"),
    ('{\n"a": 1\n}\n{\n"a" 2}', "rows.json: after item 1: not valid JSON: Expecting ':' delimiter, line 5"),
    ("id,text\n1,a\n", "rows.json: seems to be CSV, not JSON objects: it begins with 'id,text'"),
    ("id\ttext\n", "rows.json: seems to be TSV, not JSON objects"),
    (json.dumps('{"a": 1}'), "rows.json: seems to be JSON texts, not JSON objects"),
    ("q1 0 d1 1\n", "rows.json: seems to be TREC judgements or a run, not JSON objects"),
    ("Once upon a time there was, of course, a king.\n", "rows.json: seems to be plain text, not JSON objects"),
    ('{"a": 1}\n{"a"', "rows.json, line 2: not valid JSON"),
    ("[" * 100_000, "rows.json: not valid JSON"),
])  # fmt: skip
def test_what_is_no_row_is_named(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ConfigError) as raised:
        rows(tmp_path / "rows.json")
    assert problem in str(raised.value)


@pytest.mark.parametrize(("name", "content"), [("a.csv", "id,x,x\n1,2,3\n"), ("a.tsv", "id\tx\tx\n1\t2\t3\n")])
def test_two_columns_of_one_name_are_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match="has two columns 'x'"):
        rows(tmp_path / name)


def test_json_in_a_file_that_is_called_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text('{"id": 1}\n')
    with pytest.raises(ConfigError, match=r"it looks like JSON: name the file \*.jsonl"):
        list(RecordFile(tmp_path / "a.txt", ["id", "text"]).parsed(("id",), lambda row, place: row))


def test_similar_mistakes_are_reported_once_by_the_first_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([1, {"a": 1}, "b", None, 4.5, []]))
    with pytest.raises(
        ConfigError, match=r"5 items cannot be read:\n  a.json, items 1, 3, 4 and 2 more, the first of"
    ) as e:
        rows(tmp_path / "a.json")
    assert "the first of them: found 1, expected an object {...}" in str(e.value)


@pytest.mark.parametrize("before", ["", "\n\n", " \n\t\n", "\r\n"])
@pytest.mark.parametrize(("name", "tab"), [("a.csv", ","), ("a.tsv", "\t")])
def test_blank_lines_before_the_header_are_no_rows(before: str, name: str, tab: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(f"{before}id{tab}text\n1{tab}hello\n", newline="")
    line = before.count("\n") + 2
    assert rows(tmp_path / name) == [({"id": "1", "text": "hello"}, f"{name}, line {line}")]


def test_a_header_with_a_bad_byte_is_a_bad_line_and_no_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\nid,t\xffxt\n1,a\n")
    with pytest.raises(ConfigError, match=r"a\.csv, line 2: not UTF-8") as raised:
        rows(tmp_path / "a.csv")
    assert "line 3" not in str(raised.value)


@pytest.mark.parametrize(("name", "tab"), [("a.csv", ","), ("a.tsv", "\t")])
def test_line_ends_of_old_macs_are_named(name: str, tab: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(f"id{tab}text\r1{tab}hello\r".encode())
    with pytest.raises(ConfigError) as raised:
        rows(tmp_path / name)
    assert str(raised.value) == (
        f"{tmp_path / name}: its lines end as on an old Mac, with \\r alone.\n"
        f"  What to do:   convert them: tr '\\r' '\\n' < {name} > NEW"
    )
