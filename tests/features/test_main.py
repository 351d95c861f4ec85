"""python -m features builds a store from a config and shows what is in one."""

import json
import re
from pathlib import Path

import pytest

from features.__main__ import main
from language_models.encoder import Encoder
from ranking.stores.group_store import GroupStore


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Two queries: one with a right and two wrong candidates, one without labels."""
    groups = []
    for query, labels in (("first", [1, 0, 0]), ("second", [None, None])):
        candidates = [
            {"id": f"c{n}", "text": f"{query} text {n}", "label": label, "feature": [n, 1.0]}
            for n, label in enumerate(labels)
        ]
        groups.append({"query_id": query, "query": f"{query} query", "feature": [0.5, 1.0], "candidates": candidates})
    path = tmp_path / "groups.jsonl"
    path.write_text("".join(json.dumps(group) + "\n" for group in groups))
    return path


@pytest.fixture
def overrides(lines: Path, tmp_path: Path) -> list[str]:
    options = {"name": "embedding", "source.name": "jsonl", "source.path": lines, "encoder": "null"}
    return [f"features.{name}={value}" for name, value in {**options, "path": tmp_path / "store"}.items()]


def test_a_store_is_built_from_overrides_alone(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(overrides) == 0
    assert "is ready: " in capsys.readouterr().out
    assert GroupStore.open(tmp_path / "store").num_groups == 2
    assert main(overrides) == 0
    assert "already exists: " in capsys.readouterr().out


def test_a_runs_config_serves_and_its_other_keys_are_left_alone(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = f"{{name: embedding, source: {{name: jsonl, path: {lines}}}, encoder: null, path: {tmp_path / 'store'}}}"
    (tmp_path / "run.yaml").write_text(
        f"ranker: list_ranker\ndatamodule: anything\ntrainer: {{a: 1}}\nfeatures: {features}\n"
    )
    assert main(["--config", str(tmp_path / "run.yaml")]) == 0
    assert GroupStore.open(tmp_path / "store").num_groups == 2


def test_a_key_of_no_config_is_refused(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*overrides, "featurs.path=a"]) == 1
    said = capsys.readouterr().err
    assert "featurs: no such option of FeaturesConfig." in said and "Did you mean: features" in said


def test_inspect_tells_what_is_in_a_store(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    main(overrides)
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "store"), "--groups", "1", "--verify"]) == 0
    shown = capsys.readouterr().out
    for line in (
        r"queries +2\n",
        r"candidates +5 stored once, in 5 slots",
        r"per query +2 to 3, 2.50 on average",
        r"features +2 x float16, embedding",
        r"labels +0: 2, 1: 1, none: 2",
        r"right and wrong +both: 1, only right: 0, only wrong: 0, neither: 1",
        r"encoder +none: the features came with the source",
        r"first: first query",
        r"1 +c0 +first text 0",
    ):
        assert re.search(line, shown), f"{line} is not in:\n{shown}"
    assert "second query" not in shown


def test_a_damaged_text_in_a_store_gives_one_message(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(overrides)
    file = tmp_path / "store" / "groups-00000.safetensors"
    file.write_bytes(file.read_bytes().replace(b"first query", b"first\xffquery"))
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "store")]) == 1
    assert capsys.readouterr().err.startswith(f"{file}: text 0 is not UTF-8 (invalid start byte at byte 5).\n")


def test_a_pool_is_built_and_shown_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for name, rows in {
        "c": [{"id": f"c{n}", "text": f"text {n}", "v": [3 * n, 1.0]} for n in range(3)],
        "q": [
            {"id": "first", "text": "first query", "v": [0.5, 1.0], "rel": {"c1": 2, "c2": 1}, "part": "test"},
            {"id": "second", "text": "second query", "v": [0.5, 1.0], "rel": {}, "part": "train"},
        ],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"candidate_columns": "{feature: v}", "query_columns": "{feature: v, relevant: rel, split: part}"}
    files = {"name": "pool_files", "candidates": tmp_path / "c.jsonl", "queries": tmp_path / "q.jsonl", **columns}
    options = {"name": "candidate_pool", "encoder": "null", "path": tmp_path / "pool"}
    options |= {f"source.{name}": value for name, value in files.items()}
    overrides = [f"features.{name}={value}" for name, value in options.items()]
    assert main(overrides) == 0
    assert f"is ready: CandidatePool('{tmp_path / 'pool'}': 3 candidates, 2 queries, 2 x" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "pool"), "--queries", "1", "--verify"]) == 0
    shown = capsys.readouterr().out
    for line in (
        r"candidates +3\n",
        r"splits +train 1, test 1",
        r"relevant +0 to 2 a query, 1.00 on average; none for 1 queries",
        r"labels +1: 1, 2: 1",
        r"history +no query has any",
        r"own candidates +no query has any; 2 queries rank the whole pool",
        r"features +2 x float16, of any length",
        r"encoder +none: the features came with the source",
        r"first: first query",
        r"2 +c1 +text 1",
    ):
        assert re.search(line, shown), f"{line} is not in:\n{shown}"
    assert "second query" not in shown
    content = (tmp_path / "pool" / "index-00000.safetensors").read_bytes()
    (tmp_path / "pool" / "index-00000.safetensors").write_bytes(content[:-1] + b"X")
    assert main(["inspect", str(tmp_path / "pool"), "--verify"]) == 1
    assert "its content has changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["features.name=embeding"], "Did you mean: embedding"),
        (["features.name=embedding"], "features.source: "),
        (["features.name=embedding", "features.source=jsonl"], "features.source.path: "),
        (
            ["features.name=embedding", "features.source.name=jsonl", "features.source.path=nowhere.jsonl"],
            "no such file",
        ),
        (["features.retrive=1"], "features.name"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["inspect", "nowhere"], "nowhere: no such group store"),
    ],
)
def test_a_mistake_is_one_message_and_status_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    written = capsys.readouterr()
    assert written.out == ""
    assert message in written.err
    assert "Traceback" not in written.err


def test_ctrl_c_says_how_to_go_on(
    overrides: list[str], tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Encoder, "encode", interrupted)
    encoder = [f"features.encoder.model={tiny_bert}", "features.encoder.max_length=32"]
    assert main([each for each in overrides if "encoder" not in each] + encoder) == 130
    assert "run the same command to continue" in capsys.readouterr().err


def test_without_arguments_it_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "python -m features --config quickstart" in capsys.readouterr().out
