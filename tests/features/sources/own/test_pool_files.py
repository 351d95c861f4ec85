"""A pool's files are read whatever their form, and what is wrong with them is named by file, line and field."""

import csv
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from features.sources.own.pool_files import PoolFiles
from features.texts.pools import PoolQuery, PoolText
from registry import SOURCES, ConfigError

CANDIDATES = [
    {"id": f"d{row}", "text": f"text {row} ü", "title": "" if row % 2 else f"Title {row}"} for row in range(7)
]
QUERIES = [
    {"id": "1", "text": "first", "rel": ["d1", "d2"], "part": "train", "seen": ["d3", "d0"], "own": ["d1", "d2", "d4"]},
    {"id": "2", "text": "second", "rel": ["d5"], "part": "test", "seen": [], "own": []},
    {"id": "3", "text": "third", "rel": [], "part": None, "seen": ["d6"], "own": []},
]
COLUMNS = {"relevant": "rel", "split": "part", "history": "seen", "candidates": "own"}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_gzipped(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("\n\n".join(json.dumps(row) for row in rows).encode()))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> None:
    def field(value: Any) -> str:
        return " ".join(value) if isinstance(value, list) else value or ""

    lines = ["\t".join(rows[0]), *("\t".join(map(field, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows(
            [[" ".join(each) if isinstance(each, list) else each for each in row.values()] for row in rows]
        )


def write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1))


WRITERS = {
    "csv": write_csv,
    "json": write_json,
    "jsonl": write_jsonl,
    "jsonl.gz": write_gzipped,
    "parquet": write_parquet,
    "tsv": write_tsv,
}


@pytest.mark.parametrize("ending", WRITERS)
def test_every_form_gives_the_same_pool(tmp_path: Path, ending: str) -> None:
    write: Callable[[Path, list[dict[str, Any]]], None] = WRITERS[ending]
    write(tmp_path / f"part-1.{ending}", CANDIDATES[4:])
    write(tmp_path / f"part-0.{ending}", CANDIDATES[:4])
    write(tmp_path / f"queries.{ending}", QUERIES)
    node = {
        "name": "pool_files",
        "candidates": f"{tmp_path}/part-*.{ending}",
        "queries": f"{tmp_path}/queries.{ending}",
        "candidate_columns": {"title": "title"},
        "query_columns": COLUMNS,
        "candidate_tsv": "header",
        "query_tsv": "header",
    }
    source = SOURCES.build(node)
    assert isinstance(source, PoolFiles)
    found = list(source.candidates())
    assert [(each.id, each.text) for each in found] == [
        (row["id"], f"{row['title']} {row['text']}".strip()) for row in CANDIDATES
    ]
    assert all(each.origin.startswith(f"part-{place // 4}.{ending}, ") for place, each in enumerate(found))
    queries = list(source.queries())
    assert [(each.id, each.text, each.split) for each in queries] == [
        ("1", "first", "train"),
        ("2", "second", "test"),
        ("3", "third", None),
    ]
    assert [each.relevant for each in queries] == [{"d1": 1.0, "d2": 1.0}, {"d5": 1.0}, {}]
    assert [list(each.history) for each in queries] == [["d3", "d0"], [], ["d6"]]
    assert [each.candidates for each in queries] == [["d1", "d2", "d4"], None, None]


def test_relevance_comes_from_trec_judgements_and_tsv_files_need_no_header(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text("10\tten\n11\televen\n")
    (tmp_path / "queries.tsv").write_text("1\tone\n2\ttwo\n")
    (tmp_path / "qrels.txt").write_text("1 0 10 2\n1 0 11 0\n2 0 11 1\n9 0 10 1\n")
    source = pool_files(tmp_path, split="test")
    assert list(source.candidates()) == [
        PoolText("10", "ten", origin="collection.tsv, line 1"),
        PoolText("11", "eleven", origin="collection.tsv, line 2"),
    ]
    assert list(source.queries()) == [
        PoolQuery("1", "one", {"10": 2.0}, "test", [], origin="queries.tsv, line 1"),
        PoolQuery("2", "two", {"11": 1.0}, "test", [], origin="queries.tsv, line 2"),
    ]
    (tmp_path / "qrels.txt").write_text("query-id\tcorpus-id\tscore\n1\t11\t1\n")
    assert [query.relevant for query in pool_files(tmp_path).queries()] == [{"11": 1.0}, None]


QRELS = {
    "tabs, and a header": ("query-id\tcorpus-id\tscore\nq 0\td 0\t1\nq1\td1\t2\n", [{"d 0": 1.0}, {"d1": 2.0}]),
    "tabs with TREC's column": ("q 0\t0\td 0\t1\nq1\tQ0\td1\t2\n", [{"d 0": 1.0}, {"d1": 2.0}]),
    "tabs between blanks": ("q 0 \t0\td 0\t 1\n\nq1\t0\td1\t2\n", [{"d 0": 1.0}, {"d1": 2.0}]),
    "blanks": ("q1 0  d1   1\nq1 0 d2 1.5\n", [None, {"d1": 1.0, "d2": 1.5}]),
    "Windows' line ends": ("q1 0 d1 1\r\nq1 0 d2 -1\r\n", [None, {"d1": 1.0}]),
    "rounds of judging in TREC's column": ("q1 0.5 d1 1\nq1 4 d2 1\n", [None, {"d1": 1.0, "d2": 1.0}]),
    "a word in TREC's column": ("q1 iter d1 1\nq1 iter d2 1\n", [None, {"d1": 1.0, "d2": 1.0}]),
    "the same line twice": ("q1 0 d1 1\nq1 0 d1 1\n", [None, {"d1": 1.0}]),
    "blanks that are part of an id": ("q\u00a00 d1 1\nq1 d1 2\n", [None, {"d1": 2.0}]),
    "another header": ("query_id doc_id relevance\nq1 d1 1\n", [None, {"d1": 1.0}]),
}


@pytest.mark.parametrize("form", QRELS)
def test_all_judgements_in_a_file_have_the_same_separator(tmp_path: Path, form: str) -> None:
    content, expected = QRELS[form]
    (tmp_path / "collection.tsv").write_text("d 0\tten\nd1\televen\n")
    (tmp_path / "queries.tsv").write_text("q 0\tone\nq1\ttwo\n")
    (tmp_path / "qrels.txt").write_bytes(content.encode())
    assert [query.relevant for query in pool_files(tmp_path).queries()] == expected


def test_judgements_of_a_csv_file_are_parted_by_commas(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('docid,text\n1,"a, ""b""\nc"\n')
    (tmp_path / "q.csv").write_text("qid;query\nq 1;one, two\n")
    (tmp_path / "r.csv").write_text("query,candidate,label\nq 1,1,2\n")
    source = PoolFiles(*(str(tmp_path / name) for name in ("c.csv", "q.csv", "r.csv")))
    (tmp_path / "q.csv").write_text("qid ; query\nq 1;one, two\n")
    assert list(source.candidates()) == [PoolText("1", 'a, "b"\nc', origin="c.csv, line 2")]
    assert [(query.id, query.text, query.relevant) for query in source.queries()] == [("q 1", "one, two", {"1": 2.0})]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1\t0\t10\t1\n1 0 10 1\n", "line 2: has 1 fields separated by tabs, as in the first line"),
        ("1 0 10 1\n2 3\t10\t1\n", "line 2: is separated by tabs, but the first line by spaces"),
        ("1 0 10 1\n1 0 11 nan\n", "line 2: label: found 'nan', expected a finite number"),
        ("1 0 10 1\n1 0 11 inf\n", "line 2: label: found 'inf', expected a finite number"),
        ("1 0 10 1\n1 0 11 1_0\n", "line 2: label: found '1_0', expected a number"),
        ("1 0 10 1\n1 0 11 1e39\n", r"line 2: label: found 1e\+39, which float32 cannot hold"),
        ("1 0 10 1\n1 0 10 0\n", "line 2: label: found 0, but 1 in a line before"),
        ("a 1 0 10 1\n", "line 1: has 5 fields; expected(.|\n)*separate the fields by tabs"),
        ("1 0 10 1\n2 b 0 10 1\n", "line 2: has 5 fields; expected(.|\n)*separate the fields by tabs"),
        ("1 10 1\na 2 10 1\n", "line 2: has 4 fields separated by spaces, and the first one 3(.|\n)*by tabs"),
        ("1 0 10 1\n1 10 1\n", "line 2: has 3 fields separated by spaces, and the first one 4(.|\n)*by tabs"),
        ("my first 10 1\nmy query 10 2\n", "line 2: its second field of four is 'query'; expected 0, as TREC has it"),
        ("1\t0\t\t1\n", r"line 1: has 4 fields separated by tabs, as in the first line; expected"),
    ],
)
def test_a_wrong_judgement_is_named(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "collection.tsv").write_text("10\tten\n")
    (tmp_path / "queries.tsv").write_text("1\tone\n")
    (tmp_path / "qrels.txt").write_text(lines)
    with pytest.raises(ConfigError, match=rf"qrels.txt: one line cannot be read:\n  {message}"):
        list(pool_files(tmp_path).queries())


def test_the_names_that_others_give_their_columns_are_found(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "a", "title": "", "text": "t", "metadata": {}}])
    write_parquet(tmp_path / "queries.parquet", [{"query_id": 1, "query": "q", "rel": "a"}])
    columns = {"query_columns": {"relevant": "rel"}}
    paths = {"candidates": f"{tmp_path}/corpus.jsonl", "queries": f"{tmp_path}/queries.parquet"}
    source: Any = SOURCES.build({"name": "pool_files", **paths, **columns})
    assert [(each.id, each.text) for each in source.candidates()] == [("a", "t")]
    assert [(each.id, each.text, each.relevant) for each in source.queries()] == [("1", "q", {"a": 1.0})]


def test_labels_in_a_parquet_map_are_read(tmp_path: Path) -> None:
    kind = pyarrow.schema([("id", pyarrow.string()), ("text", pyarrow.string())])
    kind = kind.append(pyarrow.field("rel", pyarrow.map_(pyarrow.string(), pyarrow.float32())))
    rows = [{"id": "1", "text": "q", "rel": [("a", 2.0), ("b", 0.0)]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=kind), tmp_path / "q.parquet")
    (tmp_path / "c.jsonl").write_text(LINES)
    paths = {"candidates": f"{tmp_path}/c.jsonl", "queries": f"{tmp_path}/q.parquet"}
    source: Any = SOURCES.build({"name": "pool_files", **paths, "query_columns": {"relevant": "rel"}})
    assert [each.relevant for each in source.queries()] == [{"a": 2.0}]


def test_labels_numbers_as_ids_and_vectors_are_read(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "c.jsonl", [{"id": 7, "text": "seven", "v": [1, 0.5]}, {"id": "8", "text": "8", "v": [2, 3]}]
    )
    rows = [
        {"id": 1, "text": "q", "rel": {"7": 2, "8": 0}, "v": [1.5, 2]},
        {"id": 2, "text": "q", "rel": 8, "v": [0, 1]},
    ]
    write_jsonl(tmp_path / "q.jsonl", rows)
    write_parquet(tmp_path / "q.parquet", rows[:1])
    node: dict[str, Any] = {
        "candidates": f"{tmp_path}/c.jsonl",
        "queries": f"{tmp_path}/q.jsonl",
        "candidate_columns": {"feature": "v"},
        "query_columns": {"relevant": "rel", "feature": "v"},
    }
    source: Any = SOURCES.build({"name": "pool_files", **node})
    assert [(each.id, each.feature) for each in source.candidates()] == [("7", [1, 0.5]), ("8", [2, 3])]
    assert [(each.relevant, each.feature) for each in source.queries()] == [
        ({"7": 2.0}, [1.5, 2]),
        ({"8": 1.0}, [0, 1]),
    ]
    source = SOURCES.build({"name": "pool_files", **node, "queries": f"{tmp_path}/q.parquet"})
    assert [(each.relevant, each.feature) for each in source.queries()] == [({"7": 2.0}, [1.5, 2])]


def test_the_fingerprint_changes_with_the_data_and_the_options(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text("10\tten\n")
    (tmp_path / "queries.tsv").write_text("1\tone\n")
    (tmp_path / "qrels.txt").write_text("1 0 10 2\n")
    whole = pool_files(tmp_path).fingerprint()
    assert pool_files(tmp_path).fingerprint() == whole
    assert pool_files(tmp_path, split="val").fingerprint() != whole
    (tmp_path / "qrels.txt").write_text("1 0 10 1\n")
    assert pool_files(tmp_path).fingerprint() != whole


LINES = '{"id": "a", "text": "t"}\n'


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("c.jsonl", LINES + "{", r"c.jsonl: one line .*\n  c.jsonl, line 2: not valid JSON"),
        ("c.jsonl", LINES + '{"id": "b", "text": " "}', "c.jsonl, line 2: text: empty"),
        ("c.jsonl", LINES + '{"id": "b"}\n[]', r"2 lines .*\n.*line 2: text: missing.*\n.*line 3: found a list"),
        ("c.jsonl", LINES + '{"id": 1.5, "text": "x"}', "line 2: id: found 1.5, expected text"),
        ("c.jsonl", LINES + '{"id": "", "text": "x"}', "line 2: id: empty"),
        ("c.jsonl", LINES + '\n{"text": "x"}', "line 3: id: missing"),
        ("c.jsonl", "1\n" * 30, "seems to be plain text, not JSON objects: it begins with '1'"),
        ("c.tsv", "a\tb\na\n", "c.tsv, line 2: has 1 fields separated by tabs, expected 2: id, text"),
        ("c.tsv", "a\t \n", "c.tsv, line 1: text: empty"),
        ("c.jsonl.gz", "no gzip", "seems to be plain text"),
        ("c.parquet", "no parquet", "cannot be read as Parquet"),
        ("c.csv", "a,b", r"has no column 'id'(.|\n)*Known: *a, b"),
        ("c.csv", 'id,text\n1,"a\n', "not valid CSV: unexpected end of data"),
        ("c.csv", "id,text\n1,a,b\n", "c.csv, line 2: has 3 fields, expected 2: id, text"),
        ("c.xls", "a,b", "has an unknown extension"),
        ("c.jsonl", '{"_id": "a", "docid": "b", "text": "t"}', "has no column 'id', but _id and docid"),
        ("c.jsonl", '{"key": "a", "text": "t"}', r"has no column 'id'(.|\n)*candidate_columns.id=NAME"),
        ("c.tsv", "pid\tpassage\n1\ta\n", r"names columns(.|\n)*features.source.candidate_tsv=header"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_field(tmp_path: Path, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(ConfigError) as raised:
        list(PoolFiles(str(tmp_path / file)).candidates())
    assert re.search(message, str(raised.value)), str(raised.value)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"part": "dev"}, 'line 1: part: found "dev", expected train, val or test'),
        ({"rel": {"a": "x"}}, 'rel.*a.*: found "x", expected a number'),
        ({"rel": ["a", None]}, r"rel\[1\]: found null, expected text"),
        ({"seen": [[]]}, r"seen\[0\]: found \[\]"),
        ({"text": ""}, "text: empty"),
    ],
)
def test_a_bad_query_is_named(tmp_path: Path, query: dict[str, Any], message: str) -> None:
    (tmp_path / "c.jsonl").write_text(LINES)
    write_jsonl(tmp_path / "q.jsonl", [{"id": "1", "text": "q", "rel": "a", **query}])
    node = {"name": "pool_files", "candidates": f"{tmp_path}/c.jsonl", "queries": f"{tmp_path}/q.jsonl"}
    source: Any = SOURCES.build({**node, "query_columns": COLUMNS})
    with pytest.raises(ConfigError, match=message):
        list(source.queries())


def test_bad_judgements_are_named(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text("10\tten\n")
    (tmp_path / "queries.tsv").write_text("1\tone\n")
    (tmp_path / "qrels.txt").write_text("1 0 10 2\n1 10\n1 0 10 high\n")
    with pytest.raises(ConfigError, match=r"line 2: has 2 fields(.|\n)*line 3: label: found 'high'"):
        list(pool_files(tmp_path).queries())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": "nowhere.tsv"}, "nowhere.tsv: no such file"),
        ({"candidates": "none-*.tsv"}, "no file matches it"),
        ({"candidates": "."}, "is a folder"),
        ({"queries": "q.tsv"}, "set either `qrels` or `query_columns.relevant`"),
        ({"queries": "q.tsv", "qrels": "r.txt", "query_columns": {"relevant": "r"}}, "set either"),
        ({"qrels": "r.txt"}, "qrels without queries"),
        ({"candidate_tsv": ["number", "text"]}, r"c.tsv: has no column 'id'(.|\n)*number"),
        ({"candidate_tsv": "header"}, "has no column 'id'"),
        ({"candidates": "c.parquet", "candidate_columns": {"text": "body"}}, r"has no column 'body'(.|\n)*text"),
        ({"candidate_columns": {"txt": "body"}}, "Did you mean: text"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.tsv").write_text("a\tb\n")
    write_parquet(tmp_path / "c.parquet", CANDIDATES)
    with pytest.raises(ConfigError, match=message):
        source: Any = SOURCES.build({"name": "pool_files", "candidates": "c.tsv", **options})
        list(source.candidates())


def pool_files(folder: Path, **options: Any) -> PoolFiles:
    paths = (str(folder / name) for name in ("collection.tsv", "queries.tsv", "qrels.txt"))
    return PoolFiles(*paths, **options)
