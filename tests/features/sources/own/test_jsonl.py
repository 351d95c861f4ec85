"""jsonl reads four forms, and names each bad line by file, number and field."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from features.sources.own.jsonl import JsonLines
from features.texts.groups import Candidate, TextGroup
from registry import ConfigError

GOOD = {"query_id": "q1", "query": "which?", "candidates": [{"id": "a", "text": "this", "label": 1}]}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in records))
    return path


def read(path: Path, **options: Any) -> list[TextGroup]:
    return list(JsonLines(str(path), **options).groups())


def test_the_projects_own_form(tmp_path: Path) -> None:
    record = {
        "query_id": 7,
        "query": "which?",
        "answer": 18,
        "split": "val",
        "feature": [1, 2.5],
        "candidates": [
            {"id": "a", "text": "this ü", "label": True, "feature": [0.0, 1]},
            {"id": 2, "text": "that", "label": None, "feature": [1e-3, -1]},
            {"id": "c", "text": "those", "label": 2.5, "feature": [0, 0], "comment": "ignored"},
        ],
    }
    candidates = [
        Candidate("a", "this ü", 1.0, [0.0, 1.0]),
        Candidate("2", "that", None, [1e-3, -1.0]),
        Candidate("c", "those", 2.5, [0.0, 0.0]),
    ]
    expected = TextGroup("7", "which?", candidates, [1.0, 2.5], "18", "val", "g.jsonl, line 1")
    assert read(write(tmp_path / "g.jsonl", record)) == [expected]


def test_flagembedding_lines(tmp_path: Path) -> None:
    record = {"query": "which?", "pos": ["right"], "neg": ["wrong", "right", "wrong", "bad"], "pos_scores": [0.9]}
    [first, second] = read(write(tmp_path / "train.jsonl", record, {"query": "and?", "pos": ["yes"]}))
    assert (first.query_id, first.query) == ("train-1", "which?")
    assert {(each.text, each.label) for each in first.candidates} == {("right", 1), ("wrong", 0), ("bad", 0)}
    assert len({each.id for each in first.candidates}) == 3
    assert [(each.text, each.label) for each in second.candidates] == [("yes", 1)]


def test_lines_without_ids_get_ids_with_the_full_name_of_their_file(tmp_path: Path) -> None:
    for file in ("train.a.jsonl", "train.b.jsonl"):
        write(tmp_path / file, {"query": "which?", "pos": ["yes"]})
    assert [group.query_id for group in read(tmp_path)] == ["train.a-1", "train.b-1"]


def test_tevatron_lines(tmp_path: Path) -> None:
    record = {
        "query_id": "5",
        "query": "which?",
        "positive_passages": [{"docid": "d1", "title": "Title", "text": "right"}],
        "negative_passages": [{"docid": "d2", "title": "", "text": "wrong"}, {"docid": "d3", "text": "bad"}],
    }
    [group, positives_only] = read(
        write(tmp_path / "t.jsonl", record, {**record, "query_id": "6", "negative_passages": []})
    )
    assert sorted(group.candidates, key=lambda each: each.id) == [
        Candidate("d1", "Title right", 1.0),
        Candidate("d2", "wrong", 0.0),
        Candidate("d3", "bad", 0.0),
    ]
    assert positives_only.candidates == [Candidate("d1", "Title right", 1.0)]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("record", "query"),
    [
        ({"prompt": "Which?", "chosen": "right", "rejected": "wrong"}, "Which?"),
        ({"prompt": [user("Which?")], "chosen": [assistant("right")], "rejected": [assistant("wrong")]}, "Which?"),
        (
            {
                "prompt": [user("Hi"), assistant("Hello"), user("Which?")],
                "chosen": [assistant("right")],
                "rejected": [assistant("wrong")],
            },
            "user: Hi\n\nassistant: Hello\n\nuser: Which?",
        ),
        ({"chosen": [user("Which?"), assistant("right")], "rejected": [user("Which?"), assistant("wrong")]}, "Which?"),
    ],
)
def test_preference_pairs(tmp_path: Path, record: dict[str, Any], query: str) -> None:
    [group] = read(write(tmp_path / "p.jsonl", record))
    assert (group.query_id, group.query) == ("p-1", query)
    assert sorted(group.candidates, key=lambda each: each.id) == [
        Candidate("chosen", "right", 1.0),
        Candidate("rejected", "wrong", 0.0),
    ]


PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "transcripts": (
        {"chosen": "\n\nHuman: Which?\n\nAssistant: right", "rejected": "\n\nHuman: Which?\n\nAssistant: wrong"},
        "Which?",
    ),
    "transcripts of several turns": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Which?\n\nAssistant: right",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Which?\n\nAssistant: wrong",
        },
        "user: Hi\n\nassistant: Hello\n\nuser: Which?",
    ),
    "ShareGPT's messages": (
        {
            "conversations": [{"from": "human", "value": "Which?"}],
            "chosen": {"from": "gpt", "value": "right"},
            "rejected": {"from": "gpt", "value": "wrong"},
        },
        "Which?",
    ),
    "roles of ShareGPT and tools beside content": (
        {
            "conversations": [
                {"role": "human", "content": "Which?"},
                {"from": "function_call", "value": "look"},
                {"from": "observation", "value": "found"},
            ],
            "chosen": {"role": "gpt", "content": "right"},
            "rejected": {"content": "wrong"},
        },
        "user: Which?\n\nassistant: look\n\ntool: found",
    ),
    "an instruction with an input": (
        {"instruction": "Which of these?", "input": "a, b", "chosen": "right", "rejected": "wrong"},
        "Which of these?\n\na, b",
    ),
    "a question with a system text": (
        {"system": "Be brief.", "question": "Which?", "chosen": "right", "rejected": "wrong"},
        "Be brief.\n\nWhich?",
    ),
    "lists that say the prompt again": (
        {
            "prompt": "Which?",
            "chosen": [user("Which?"), assistant("right")],
            "rejected": [user("Which?"), assistant("wrong")],
        },
        "Which?",
    ),
    "a null prompt": (
        {"prompt": None, "question": "Which?", "chosen": "right", "rejected": "wrong"},
        "Which?",
    ),
}


@pytest.mark.parametrize("form", PAIRS)
def test_pairs_are_read_as_other_tools_write_them(tmp_path: Path, form: str) -> None:
    record, query = PAIRS[form]
    [group] = read(write(tmp_path / "p.jsonl", record))
    assert group.query == query
    assert {each.id: each.text for each in group.candidates} == {"chosen": "right", "rejected": "wrong"}


def test_a_response_that_begins_like_the_other_one_is_whole(tmp_path: Path) -> None:
    record = {"chosen": "\n\nHuman: a\n\nAssistant: yes, sure", "rejected": "\n\nHuman: a\n\nAssistant: yes"}
    [group] = read(write(tmp_path / "p.jsonl", record))
    assert {each.id: each.text for each in group.candidates} == {"chosen": "yes, sure", "rejected": "yes"}


def test_equal_pairs_are_an_error_or_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = write(tmp_path / "p.jsonl", good, *[{**good, "rejected": "b"}] * 2, {**good, "prompt": "d"})
    with pytest.raises(ConfigError, match=r"lines 2 and 3: rejected: the same text as chosen(.|\n)*equal_pairs=drop"):
        read(path)
    source = JsonLines(str(path), equal_pairs="drop")
    assert [[group.query_id for group in source.groups()] for _ in range(2)] == [["p-1", "p-4"]] * 2
    assert capsys.readouterr().err == "Left out 2 pairs whose chosen and rejected texts are equal.\n"
    assert source.fingerprint() != JsonLines(str(path)).fingerprint()
    assert "equal_pairs" not in JsonLines(str(path)).fingerprint()


@pytest.mark.parametrize("bad", [
    {"prompt": "a", "chosen": "b", "rejected": " "},
    {"prompt": "a", "chosen": "", "rejected": ""},
    {"prompt": "a", "chosen": "b", "rejected": [{"role": "assistant", "content": ""}]},
    {"chosen": "\n\nHuman: a\n\nAssistant: ", "rejected": "\n\nHuman: a\n\nAssistant: b"},
])  # fmt: skip
def test_pairs_with_an_empty_response_are_an_error_or_left_out_and_counted(
    bad: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = write(tmp_path / "p.jsonl", good, bad, good)
    with pytest.raises(ConfigError, match=r"line 2: (chosen|rejected): empty; expected text(.|\n)*empty_pairs=drop"):
        read(path)
    source = JsonLines(str(path), empty_pairs="drop")
    assert [group.query_id for group in source.groups()] == ["p-1", "p-3"]
    assert capsys.readouterr().err == "Left out one pair whose chosen or rejected text is empty.\n"
    assert source.fingerprint() != JsonLines(str(path)).fingerprint()


def test_candidates_with_an_empty_text_are_an_error_or_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = [{"id": str(at), "text": text, "label": at} for at, text in enumerate(["a", "", "b", " \n"])]
    path = write(tmp_path / "g.jsonl", GOOD, {"query_id": "q2", "query": "what?", "candidates": candidates})
    wanted = r"line 2: candidates\[1\].text: empty; expected text(.|\n)*empty_candidates=drop"
    with pytest.raises(ConfigError, match=wanted):
        read(path)
    source = JsonLines(str(path), empty_candidates="drop")
    assert [[each.id for each in group.candidates] for group in source.groups()] == [["a"], ["0", "2"]]
    assert capsys.readouterr().err == "Left out 2 candidates whose text is empty.\n"
    assert source.fingerprint() != JsonLines(str(path)).fingerprint()
    nothing = write(tmp_path / "n.jsonl", {"query_id": "q", "query": "what?", "candidates": candidates[1:2]})
    with pytest.raises(ConfigError, match=r"line 1: candidates: found \[\], expected a list of objects, at least one"):
        read(nothing, empty_candidates="drop")


def test_equal_texts_keep_the_highest_label_or_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [("this", 0), ("this", 2), ("that", 0), ("that", 0), ("this", None), ("this", 2)]
    candidates = [{"id": str(at), "text": text, "label": label} for at, (text, label) in enumerate(texts)]
    path = write(tmp_path / "g.jsonl", {"query_id": "q", "query": "what?", "candidates": candidates})
    with pytest.raises(ConfigError, match=r"'0' and '1' have the same text(.|\n)*equal_candidates=drop"):
        read(path)
    [group] = read(path, equal_candidates="drop")
    assert [each.id for each in group.candidates] == ["1", "2", "3", "4", "5"]
    assert capsys.readouterr().err == "Left out one candidate whose text is that of another with a higher label.\n"
    vectors = [{**each, "feature": [at]} for at, each in enumerate(candidates)]
    [group] = read(write(path, {"query_id": "q", "query": "what?", "feature": [1], "candidates": vectors}))
    assert len(group.candidates) == 6, "vectors tell equal texts apart"


def test_a_passage_of_tevatron_that_is_positive_and_negative_counts_as_positive(tmp_path: Path) -> None:
    negative = [{"docid": "e", "text": "right"}, {"docid": "f", "text": "wrong"}]
    [group] = read(write(tmp_path / "t.jsonl", {**TEVATRON, "negative_passages": negative}))
    assert {each.id: each.label for each in group.candidates} == {"d": 1.0, "f": 0.0}


def as_array(path: Path) -> None:
    path.write_text(json.dumps([json.loads(line) for line in path.read_text().splitlines()], indent=1))


def as_parquet(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


FILES: dict[str, Callable[[Path], Any]] = {
    "a byte order mark": lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
    "gzip without its ending": lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
    "Windows' line ends": lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")),
    "blank lines": lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\n \n\n")),
    "a list": as_array,
    "a list on one line": lambda path: path.write_text("[" + ",".join(path.read_text().splitlines()) + "]"),
    "objects over several lines": lambda path: path.write_text(
        "\n".join(json.dumps(json.loads(line), indent=2) for line in path.read_text().splitlines())
    ),
    "Parquet": as_parquet,
}


@pytest.mark.parametrize("form", FILES)
def test_a_file_is_read_in_any_form_that_its_first_bytes_tell(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", GOOD, {**GOOD, "query_id": "q2", "query": "and?"})
    FILES[form](path)
    assert [(group.query_id, group.query, group.candidates[0].label) for group in read(path)] == [
        ("q1", "which?", 1.0),
        ("q2", "and?", 1.0),
    ]


def test_a_file_that_is_called_gzipped_and_is_not_is_read(tmp_path: Path) -> None:
    assert [group.query_id for group in read(write(tmp_path / "data.jsonl.gz", GOOD))] == ["q1"]


def test_a_folder_without_json_lines_is_read_by_its_other_files(tmp_path: Path) -> None:
    as_parquet(write(tmp_path / "b.parquet", GOOD))
    as_array(write(tmp_path / "a.json", {**GOOD, "query_id": "q0"}))
    assert [group.query_id for group in read(tmp_path)] == ["q0", "q1"]


def test_a_title_may_stand_alone_and_negatives_may_be_null(tmp_path: Path) -> None:
    passages = [{"docid": "a", "title": "Title", "text": ""}, {"docid": "b", "title": "Other"}]
    [group] = read(write(tmp_path / "t.jsonl", {**TEVATRON, "positive_passages": passages}))
    assert {each.id: each.text for each in group.candidates} == {"a": "Title", "b": "Other"}
    [group] = read(write(tmp_path / "f.jsonl", {"query": "a", "pos": ["b"], "neg": None}))
    assert [(each.text, each.label) for each in group.candidates] == [("b", 1.0)]


def test_no_form_puts_right_ones_at_a_place_of_their_own(tmp_path: Path) -> None:
    forms = {
        "p.jsonl": lambda n: {"prompt": f"{n}?", "chosen": f"right {n}", "rejected": f"wrong {n}"},
        "f.jsonl": lambda n: {"query": f"{n}?", "pos": [f"right {n}"], "neg": [f"wrong {n}"]},
        "t.jsonl": lambda n: {
            "query_id": n,
            "query": f"{n}?",
            "positive_passages": [{"docid": "a", "text": f"right {n}"}],
            "negative_passages": [{"docid": "b", "text": f"wrong {n}"}],
        },
    }
    for file, form in forms.items():
        groups = read(write(tmp_path / file, *map(form, range(400))))
        assert 150 < sum(group.candidates[0].label == 1 for group in groups) < 250, file


def test_a_compressed_file_and_a_folder_of_files(tmp_path: Path) -> None:
    plain = write(tmp_path / "b.jsonl", GOOD, "", {**GOOD, "query_id": "q2"})
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps({**GOOD, "query_id": "q0"}).encode()))
    (tmp_path / "c.txt").write_text("not read")
    assert [group.query_id for group in read(plain)] == ["q1", "q2"]
    assert [group.query_id for group in read(tmp_path)] == ["q0", "q1", "q2"]
    assert read(tmp_path)[0].origin == "a.jsonl.gz, line 1"


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", GOOD)
    before = JsonLines(str(path)).fingerprint()
    assert before == JsonLines(str(path)).fingerprint()
    write(path, {**GOOD, "query": "whose?"})
    assert before != JsonLines(str(path)).fingerprint()


def with_candidate(**fields: Any) -> dict[str, Any]:
    return {**GOOD, "candidates": [{"id": "a", "text": "this"}, {"id": "b", "text": "that", **fields}]}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name not in names}


TEVATRON = {"query_id": "5", "query": "which?", "positive_passages": [{"docid": "d", "text": "right"}]}
BAD_LINES: dict[str, tuple[Any, str]] = {
    "invalid JSON": ('{"query_id": "q1",', "not valid JSON: Expecting property name"),
    "a cut line": (json.dumps(GOOD)[:40], "not valid JSON"),
    "a list": ([GOOD], r"found a list, expected an object"),
    "a number": (3, "found a int, expected an object"),
    "no query": (without("query"), "query: missing; expected text"),
    "an empty query": ({**GOOD, "query": " "}, "query: empty; expected text"),
    "a query that is no text": ({**GOOD, "query": ["which?"]}, r'query: found \["which\?"\], expected text'),
    "no query_id": (without("query_id"), "query_id: missing; expected text or a whole number"),
    "a query_id that is no text": ({**GOOD, "query_id": 1.5}, "query_id: found 1.5, expected text"),
    "no candidates": ({**GOOD, "candidates": []}, r"candidates: found \[\], expected a list of objects, at least one"),
    "candidates of text": ({**GOOD, "candidates": ["a"]}, r'candidates\[0\]: found "a", expected an object'),
    "candidates in an object": ({**GOOD, "candidates": {"a": 1}}, r'candidates: found {"a": 1}, expected a list'),
    "no text": ({**GOOD, "candidates": [{"id": "a"}]}, r"candidates\[0\].text: missing; expected text"),
    "an empty text": (with_candidate(text=""), r"candidates\[1\].text: empty"),
    "a text that is null": (with_candidate(text=None), r"candidates\[1\].text: found null, expected text"),
    "no id": ({**GOOD, "candidates": [{"text": "a"}]}, r"candidates\[0\].id: missing"),
    "an id twice": (with_candidate(id="a"), "candidates: two have the id 'a'"),
    "two texts": ({**GOOD, "messages": [{"role": "user", "content": "which?"}]}, "messages: given together with query"),
    "equal texts with different labels": (
        {**GOOD, "candidates": [{"id": "a", "text": "this", "label": 1}, {"id": "b", "text": "this", "label": 0}]},
        "candidates: 'a' and 'b' have the same text, but the labels 1 and 0",
    ),
    "a label in words": (with_candidate(label="yes"), r'candidates\[1\].label: found "yes", expected a number'),
    "a label that is nan": (with_candidate(label=float("nan")), r"candidates\[1\].label: found nan, expected a finite"),
    "a label that is infinite": (
        with_candidate(label=float("inf")),
        r"candidates\[1\].label: found inf",
    ),
    "a label beyond floats": (with_candidate(label=10**400), r"candidates\[1\].label: found 1000.*, expected a finite"),
    "a label that float32 makes infinite": (
        with_candidate(label=1e39),
        r"candidates\[1\].label: found 1e\+39, which float32 cannot hold",
    ),
    "a label that float32 makes 0": (with_candidate(label=1e-50), r"candidates\[1\].label: found 1e-50, which float32"),
    "an integer of more digits than Python reads": (
        '{"query_id": ' + "1" * 5000 + "}",
        r"not valid JSON: Exceeds the limit \(4300 digits\)",
    ),
    "a key twice": ('{"query_id": "a", "query_id": "b"}', "query_id: occurs twice, with different values"),
    "a comma after the last field": ('{"query_id": "a",}', "not valid JSON: Expecting property name"),
    "something after the object": (
        '{"query_id": "a"} {}',
        "not valid JSON lines: another object after the object, at character 19",
    ),
    "a comma after the object": (
        '{"query_id": "a"},',
        "not valid JSON lines: a comma after the object, at character 18",
    ),
    "a NUL byte": ('{"query_id": "a\0"}', "a NUL byte at 15"),
    "an unknown split": ({**GOOD, "split": "dev"}, 'split: found "dev", expected train, val or test'),
    "a feature of text": (
        with_candidate(feature="1 2"),
        r'candidates\[1\].feature: found "1 2", expected a list',
    ),
    "a feature with text": (
        with_candidate(feature=[1, "2"]),
        r'candidates\[1\].feature\[1\]: found "2"',
    ),
    "a feature with nan": (with_candidate(feature=[1, float("nan")]), r"candidates\[1\].feature\[1\]: found nan"),
    "a feature that is empty": (with_candidate(feature=[]), r"candidates\[1\].feature: found \[\], expected a list of"),
    "a feature where others have none": (
        with_candidate(feature=[1]),
        r"candidates\[1\].feature: found 1 numbers",
    ),
    "a feature beyond float32": (
        with_candidate(feature=[0.0, -1e300]),
        r"candidates\[1\].feature\[1\]: found -1e\+300, which float32 cannot hold",
    ),
    "half a character": ({**GOOD, "query": "\ud83d"}, "query: half of a surrogate pair at character 0"),
    "no passage": ({**TEVATRON, "positive_passages": []}, "positive_passages: no passage here"),
    "a passage without docid": (
        {**TEVATRON, "positive_passages": [{"text": "a"}]},
        r"positive_passages\[0\].docid: m",
    ),
    "a title that is no text": (
        {**TEVATRON, "positive_passages": [{"docid": 1, "title": 5, "text": "a"}]},
        r"positive_passages\[0\].title: found 5",
    ),
    "pos that is no list": ({"query": "a", "pos": "b"}, 'pos: found "b", expected a list of texts'),
    "an empty neg": ({"query": "a", "pos": ["b"], "neg": [""]}, r"neg\[0\]: empty"),
    "a pair of equal texts": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "rejected: the same text as chosen"),
    "transcripts that share no turn": (
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"},
        "prompt: missing, and chosen and rejected share no turn 'Assistant:'",
    ),
    "no rejected": ({"prompt": "a", "chosen": "b"}, "rejected: missing; expected text or a list of messages"),
    "a message without content": (
        {"prompt": "a", "chosen": [{"role": "user"}], "rejected": "c"},
        r"chosen\[0\].content: missing",
    ),
    "a role that does not exist": (
        {"prompt": [{"role": "wizard", "content": "a"}, user("b")], "chosen": "c", "rejected": "d"},
        r'prompt\[0\].role: found "wizard", expected one of assistant, system, tool, user',
    ),
    "one message of such a role": (
        {"prompt": "a", "chosen": [{"from": "wizard", "value": "b"}], "rejected": "c"},
        r'chosen\[0\].role: found "wizard", expected one of',
    ),
    "a conversation that ends where the other goes on": (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a")]},
        r"rejected: found \[\], expected text or a list of messages",
    ),
}


@pytest.mark.parametrize("fault", BAD_LINES)
def test_a_bad_line_is_named_by_file_number_and_field(fault: str, tmp_path: Path) -> None:
    record, message = BAD_LINES[fault]
    fields = record if isinstance(record, dict) else {}
    form = next((form for form in ("pos", "positive_passages", "chosen") if form in fields), None)
    good: dict[str | None, Any] = {
        None: [{**GOOD, "query_id": "g1"}, {**GOOD, "query_id": "g2"}],
        "pos": [{"query": "a", "pos": ["b"]}] * 2,
        "positive_passages": [{**TEVATRON, "query_id": "g1"}, {**TEVATRON, "query_id": "g2"}],
        "chosen": [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2,
    }
    first, last = good[form]
    path = write(tmp_path / "data.jsonl", first, record, last)
    with pytest.raises(ConfigError, match=rf"one line cannot be read:\n  data.jsonl, line 2: {message}") as caught:
        read(path)
    assert str(caught.value).startswith(str(path))


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another encoding": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"which?", "wäh".encode("latin-1"))),
        "line 1: not UTF-8: byte 0xe4 at",
    ),
    "UTF-16": (
        lambda path: path.write_bytes(path.read_text().encode("utf-16")),
        "is UTF-16 text(.|\n)*iconv -f UTF-16",
    ),
    "nothing": (lambda path: path.write_bytes(b""), "data.jsonl: holds nothing"),
    "not there": (lambda path: path.unlink(), "no such file or folder"),
    "no form": (
        lambda path: path.write_text('{"text": "a"}\n'),
        "line 1: its fields are text; expected one of",
    ),
    "an empty folder": (lambda path: (path.unlink(), path.mkdir()), "has no file"),
    "the same query again": (
        lambda path: path.write_text(path.read_text() * 2),
        "line 2: query_id: 'q1' was already used in data.jsonl, line 1",
    ),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_is_named_with_its_fault(fault: str, tmp_path: Path) -> None:
    harm, message = BAD_FILES[fault]
    path = write(tmp_path / "data.jsonl", GOOD)
    harm(path)
    with pytest.raises(ConfigError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_damaged_compressed_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode() * 1000)[:-20])
    with pytest.raises(ConfigError, match=r"data.jsonl.gz: is damaged"):
        read(tmp_path / "data.jsonl.gz")


def test_features_have_one_length(tmp_path: Path) -> None:
    def record(number: int, size: int) -> dict[str, Any]:
        feature = [0.5] * size
        candidates = [{"id": "a", "text": "t", "feature": feature}]
        return {"query_id": number, "query": "q", "feature": [0.5, 0.5], "candidates": candidates}

    path = write(tmp_path / "data.jsonl", record(1, 2), record(2, 3), record(3, 2), {**GOOD, "query_id": "4"})
    with pytest.raises(ConfigError) as caught:
        read(path)
    message = str(caught.value)
    assert "line 2: candidates[0].feature: found 3 numbers, expected 2 numbers" in message
    assert "line 4: feature: missing, expected 2 numbers" in message
    assert "line 3" not in message


def test_the_good_lines_pass_and_all_bad_ones_are_reported_together(tmp_path: Path) -> None:
    records = [{**GOOD, "query_id": f"q{number}"} for number in range(10)]
    for number in (2, 5, 9):
        del records[number]["query"]
    passed = []
    with pytest.raises(ConfigError, match="3 lines cannot be read") as caught:
        passed.extend(JsonLines(str(write(tmp_path / "d.jsonl", *records))).groups())
    assert "\n  d.jsonl, lines 3, 6 and 10: query: missing; expected text\n" in str(caught.value)


def test_a_mistake_in_many_lines_is_reported_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="50 lines cannot be read") as caught:
        read(write(tmp_path / "d.jsonl", GOOD, *["{"] * 50))
    assert "d.jsonl, lines 2, 3, 4 and 47 more: not valid JSON" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_a_form_that_is_named_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 1: pos: missing"):
        read(write(tmp_path / "d.jsonl", GOOD), format="flagembedding")


def test_picks_are_labels_of_what_was_shown(tmp_path: Path) -> None:
    lines = [
        {"query": "tea", "candidates": ["green", "black", "mint"], "picked": 1},
        {"query_id": "b", "query": "fruit", "candidates": ["pear", "plum"], "picked": [0, 1], "split": "test"},
    ]
    groups = read(write(tmp_path / "picks.jsonl", *lines))
    assert [[each.label for each in group.candidates] for group in groups] == [[0, 1, 0], [1, 1]]
    assert [group.split for group in groups] == [None, "test"] and groups[1].query_id == "b"


@pytest.mark.parametrize(("line", "message"), [
    ({"query": "a", "candidates": ["x", "y"], "picked": 2}, "picked.*from 0 to 1"),
    ({"query": "a", "candidates": ["x", "y"], "picked": True}, "picked.*from 0 to 1"),
    ({"query": "a", "candidates": ["x", "x"], "picked": 0}, "candidates.*'x' is there twice"),
    ({"query": "a", "candidates": [], "picked": 0}, "candidates.*a list of texts"),
])  # fmt: skip
def test_wrong_picks_are_refused(tmp_path: Path, line: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(write(tmp_path / "picks.jsonl", line))
