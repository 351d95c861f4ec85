"""python -m training verify: whole runs on every kind of source, judged by ir-measures from their own run.trec."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from run_configs import train_once

from registry import ConfigError
from registry.config import to_yaml
from training.__main__ import main
from training.results.verification import _Orders, verify

WORDS = ["read", "write", "open", "close", "sort", "list", "file", "key", "value", "return", "first", "last", "count"]
METRICS: list[Any] = ["mrr", "mrr@3", "hit@1", "hit@3", "ndcg@10", "ndcg", "recall@1", "recall@10", "precision@5"]
METRICS += [{"name": "ndcg", "k": 5, "gain": "exponential"}]


def passage(number: int) -> str:
    """Every passage comes three times, so that many scores tie."""
    number //= 3
    return " ".join(WORDS[(number * step + step) % len(WORDS)] for step in range(1, 6))


def write_trec(folder: Path, queries: range) -> str:
    """Queries with passages of grades 0 to 3, some of which the collection lacks; the last query is not judged."""
    folder.mkdir()
    (folder / "collection.tsv").write_text("".join(f"{id}\t{passage(id)}\n" for id in range(54)))
    (folder / "queries.tsv").write_text("".join(f"{id}\t{passage(3 * id)}\n" for id in queries))
    lines = [f"{id} 0 {(3 * id + place) % 66} {(id + place) % 4}\n" for id in queries[:-1] for place in range(8)]
    (folder / "qrels.txt").write_text("".join(lines))
    return str(folder)


def pool_files(tmp_path: Path) -> dict[str, Any]:
    """Fractional labels, of a single candidate for every other query, and ids with blanks."""
    rows = [{"id": f"c {id}", "text": passage(id)} for id in range(60)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [
        {
            "id": f"q {id}",
            "text": passage(3 * id),
            "relevant": {f"c {(3 * id + place) % 60}": place / 4 for place in range(3 * (id % 2), 4)},
        }
        for id in range(24)
    ]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    files = {"candidates": str(tmp_path / "pool.jsonl"), "queries": str(tmp_path / "queries.jsonl")}
    return {"name": "pool_files", **files, "query_columns": {"relevant": "relevant"}, "min_label": 0.5}


def trec(tmp_path: Path) -> dict[str, Any]:
    parts = {"train": range(10), "val": range(10, 15), "test": range(15, 20)}
    return {"name": "trec", **{split: write_trec(tmp_path / split, queries) for split, queries in parts.items()}}


def groups(tmp_path: Path) -> dict[str, Any]:
    """Groups with texts that only differ in blanks at the end, which the encoder does not see."""
    rows = [
        {
            "query_id": f"q{id}",
            "query": passage(3 * id),
            "candidates": [
                {"id": f"q{id}c{place}", "text": passage(id + place) + place * " ", "label": (id * place) % 3}
                for place in range(7)
            ],
        }
        for id in range(30)
    ]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "jsonl", "path": str(tmp_path / "groups.jsonl")}


def train_on(source: dict[str, Any], folder: Path, encoder: Path, ranker: str = "lranker", **datamodule: Any) -> Path:
    """Train for one epoch on a source, over its pool or its groups; the folder of the run."""
    config: dict[str, Any] = {
        "features": {"source": source, "encoder": {"model": str(encoder), "max_length": 32}},
        "ranker": {"name": ranker, "metrics": METRICS},
        "datamodule": {"batch_size": 8, **datamodule},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "runs": str(folder / "runs"),
        "logger": [],
    }
    config["features"]["path"] = str(folder / "store")
    if ranker == "lranker":
        config["features"] |= {"name": "candidate_pool", "unknown_ids": "drop"}
        config["datamodule"] |= {"name": "partitioned_candidates", "num_partitions": 2, "num_splits": 2}
        config["ranker"] |= {"backbone": {"model": str(encoder)}, "lora": None, "scaling": None}
        config["ranker"] |= {"max_length": 64, "aggregator": {"name": "kmeans", "num_centroids": 2}}
        config["ranker"] |= {"template": "the value of {query} <|embedding|> key"}
    else:
        config["features"]["name"] = "embedding"
        config["datamodule"]["name"] = "grouped_features"
    (folder / "run.yaml").write_text(to_yaml(config))
    return train_once(folder / "run.yaml").path


@pytest.fixture
def run(tiny_bert: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train in the folder of the test."""
    return lambda source, *ranker, **datamodule: train_on(source, tmp_path, tiny_bert, *ranker, **datamodule)


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over groups."""
    folder = tmp_path_factory.mktemp("trained")
    return train_on(groups(folder), folder, tiny_bert, "list_ranker")


@pytest.fixture
def grouped(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, with a copy of its source."""
    source = trained.parents[2] / "groups.jsonl"
    shutil.copy(source, tmp_path)
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    config = (folder / "config.yaml").read_text()
    assert str(source) in config
    (folder / "config.yaml").write_text(config.replace(str(source), str(tmp_path / "groups.jsonl")))
    return folder


def assert_agrees(folder: Path) -> None:
    found = verify(folder)
    assert [(check.metric, check.furthest) for check in found.checks if not check.equal] == []
    assert all(check.known and check.compared > 0 and check.left_out == 0 for check in found.checks)


def test_a_run_over_a_pool_of_groups_has_the_numbers_of_ir_measures(run: Callable[..., Path], tmp_path: Path) -> None:
    assert_agrees(run(groups(tmp_path)))


def test_a_run_over_groups_has_the_numbers_of_ir_measures(run: Callable[..., Path], tmp_path: Path) -> None:
    assert_agrees(run(groups(tmp_path), "list_ranker", num_candidates=4, eval_draws=3))


def test_a_run_over_groups_is_judged_by_the_source_and_not_by_the_store(grouped: Path, tmp_path: Path) -> None:
    folder = grouped
    assert verify(folder).judged_by == "the source, jsonl" and verify(folder).equal
    rows = [json.loads(line) for line in (tmp_path / "groups.jsonl").read_text().splitlines()]
    for candidate in (candidate for row in rows for candidate in row["candidates"]):
        candidate["label"] = 2 - candidate["label"]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not verify(folder).equal


def test_candidates_that_the_pool_lacks_count_and_both_numbers_are_given(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(trec(tmp_path))
    assert_agrees(folder)
    test = json.loads((folder / "metrics.json").read_text())["test"]
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{test['judged_but_not_in_the_pool']} judged candidates are not in the pool" in shown
    # Of the passages 3 q to 3 q + 7 of the queries 15 to 18, the collection ends at 53, and grades of 0 do not count.
    lacking = [place for id in range(15, 19) for place in range(8) if 3 * id + place >= 54 and (id + place) % 4]
    assert test["judged_but_not_in_the_pool"] == len(lacking) > 0
    assert test["queries"] == 4
    scorers = test["scorers"]
    assert scorers["within the pool"]["ndcg"]["mean"] > scorers["lranker"]["ndcg"]["mean"]


def test_changed_results_are_found_out(grouped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = grouped
    assert main(["verify", str(folder)]) == 0
    assert "all agree to 1e-06" in capsys.readouterr().out
    lines = (folder / "run.trec").read_text().splitlines(keepends=True)
    fields = [line.split() for line in lines]
    swapped = [f"{q} Q0 {c} {rank} {-float(score)} {tag}\n" for q, _, c, rank, score, tag in fields]
    (folder / "run.trec").write_text("".join(swapped))
    assert main(["verify", str(folder)]) == 1
    assert "some differ" in capsys.readouterr().out
    (folder / "run.trec").write_text("".join(lines))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["test"]["scorers"]["list_ranker"]["mrr"]["mean"] += 0.01
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ConfigError, match=r"metrics\.json: mrr is .*, but the mean of per_query\.csv is"):
        verify(folder)


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert "no finished run: there is no config.yaml in it" in capsys.readouterr().err


def test_a_relative_path_that_is_not_there_says_where_training_was_run(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run({**pool_files(tmp_path), "queries": "queries.jsonl"})
    assert_agrees(folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"queries\.jsonl: no such file") as refused:
        verify(folder)
    assert f"training was run in {tmp_path}; run verify from there" in str(refused.value)
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["made_with"]["folder"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ConfigError, match="no such file") as refused:
        verify(folder)
    assert "training was run in another folder" in str(refused.value)


def test_a_run_file_without_lines_is_no_agreement(grouped: Path) -> None:
    (grouped / "run.trec").write_text("")
    with pytest.raises(ConfigError, match=r"run\.trec: has no line of \d+ of \d+ queries, such as q"):
        verify(grouped)


def test_ids_that_end_in_a_number_sign_and_a_number_are_queries(run: Callable[..., Path], tmp_path: Path) -> None:
    source = groups(tmp_path)
    text = (tmp_path / "groups.jsonl").read_text()
    (tmp_path / "groups.jsonl").write_text(re.sub(r'"query_id": "q(\d+)"', r'"query_id": "q#\1"', text))
    found = verify(run(source, "list_ranker"))
    assert found.equal and all(check.compared > 0 for check in found.checks)
    again = verify(run({**source}, "list_ranker", num_candidates=4, eval_draws=2))
    assert again.equal and all(check.compared > 0 for check in again.checks)


def test_a_last_tie_that_may_go_on_below_the_run_file_is_left_out() -> None:
    measure = ir_measures.R @ 3
    for ranking in ([("a", 2.0), ("b", 1.0), ("c", 1.0)], [("x", 3.0), ("y", 2.0), ("b", 1.0)]):
        orders = _Orders(measure, False, 3)
        orders.add("q", "1", ranking, {"b": 1}, ends_early=True)
        assert orders.values() == {}
        orders = _Orders(measure, False, 3)
        orders.add("q", "1", ranking, {"b": 1}, ends_early=False)
        assert orders.values() == {"q": 1.0}


DAMAGE: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("run.trec", lambda content: content[: len(content) // 2 - 3]),
    ("run.trec", lambda content: b"\xff\xfe" + content),
    ("metrics.json", lambda content: content[: len(content) // 2]),
    ("metrics.json", lambda content: b"[" + content + b"]"),
    ("metrics.json", lambda content: content.replace(b'"scorers"', b'"runners"')),
    ("per_query.csv", lambda content: content[: len(content) // 2].rpartition(b",")[0]),
    ("per_query.csv", lambda content: content.replace(b",list_ranker,", b",list_ranker,zero", 1)),
    ("per_query.csv", lambda content: content.replace(b"scorer", b"method", 1)),
]


def test_damaged_files_of_a_run_are_errors_that_name_them(grouped: Path) -> None:
    folder = grouped
    for name, damage in DAMAGE:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(damage(content))
        with pytest.raises(ConfigError, match=rf"{name}: (damaged, or of something else than a run: |has no line of )"):
            verify(folder)
        (folder / name).write_bytes(content)
    assert verify(folder).equal
