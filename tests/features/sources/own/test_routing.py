"""Queries with what each model scored on them and cost, in both forms; what is missing is counted or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from features.extractors.texts import TextsExtractor
from features.sources.own.routing import Balance, Routing
from ranking.stores.group_store import GroupStore
from registry import SOURCES, ConfigError

MODELS = [
    {"id": "small", "text": "A small model.", "cost": 1},
    {"id": "large", "text": "A large model.", "input_price": 2, "output_price": 4},
]
QUERIES: list[dict[str, Any]] = [
    {"query_id": "a", "query": "one?", "scores": {"small": 0.5, "large": 1}, "split": "train"},
    {"query_id": "b", "query": "two?", "scores": {"small": 1, "large": 1}, "costs": {"large": 9}, "split": "val"},
    {"query_id": "c", "query": "three?", "scores": {"small": None, "large": 0}, "split": "test"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def queries(tmp_path: Path) -> str:
    return write(tmp_path / "queries.jsonl", QUERIES)


@pytest.fixture
def models(tmp_path: Path) -> str:
    return write(tmp_path / "models.jsonl", MODELS)


def test_labels_are_scores_or_balance_them_with_costs(queries: str, models: str) -> None:
    plain = list(Routing(queries, models).groups())
    assert [(group.query_id, group.split) for group in plain] == [("a", "train"), ("b", "val"), ("c", "test")]
    assert [(each.id, each.text, each.label, each.performance, each.cost) for each in plain[0].candidates] == [
        ("small", "A small model.", 0.5, 0.5, 1),
        ("large", "A large model.", 1, 1, 3),
    ]
    balanced = list(Routing(queries, models, Balance(performance=0.5, cost=0.5)).groups())
    # Costs go from 1 to 9: those of 1, 3 and 9 count as 0, 1/4 and 1.
    assert [[each.label for each in group.candidates] for group in balanced] == [[0.25, 0.375], [0.5, 0], [-0.125]]


def test_rows_per_query_and_model_are_the_same_groups(queries: str, models: str, tmp_path: Path) -> None:
    lines = ["query_id,query,model,score,cost,split"]
    for query in QUERIES:
        for model, score in query["scores"].items():
            cost = query.get("costs", {}).get(model, "")
            shown = "" if score is None else score
            lines.append(f'{query["query_id"]},"{query["query"]}",{model},{shown},{cost},{query["split"]}')
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    found, expected = (
        list(Routing(str(path), models).groups()) for path in (tmp_path / "rows.csv", tmp_path / "queries.jsonl")
    )
    assert [(group.query_id, group.query, group.split, group.candidates) for group in found] == [
        (group.query_id, group.query, group.split, group.candidates) for group in expected
    ]


def test_what_is_missing_is_counted_and_told_once(
    queries: str, models: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "models.jsonl", [*MODELS, {"id": "unused", "text": "Nobody tried it."}])
    source = Routing(queries, models)
    for _ in range(2):
        assert len(list(source.groups())) == 3
    assert capsys.readouterr().err.splitlines() == [
        "1 of 3 queries have the same score for all models; no router can gain on them.",
        "1 of 6 scores are missing: these models are no candidates there.",
        "1 of 3 models have no score for any query.",
    ]
    assert [group.query_id for group in Routing(queries, models, equal_scores="drop").groups()] == ["a", "c"]
    assert "1 of 3 queries have the same score for all models, and are left out." in capsys.readouterr().err
    list(Routing(queries, models, Balance(cost=0.5)).groups())
    assert "1 of 3 queries have the same score for all models; only costs tell these apart." in capsys.readouterr().err


def test_costs_may_be_missing_only_where_labels_do_not_depend_on_them(
    queries: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [each.cost for group in Routing(queries).groups() for each in group.candidates] == [
        None,
        None,
        None,
        9,
        None,
    ]
    assert "4 of 5 costs are missing." in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"(?s)4 of 5 costs are missing; labels depend on them.*missing_costs=drop"):
        list(Routing(queries, balance=Balance(cost=1.0)).groups())
    kept = list(Routing(queries, balance=Balance(cost=1.0), missing_costs="drop").groups())
    assert [(group.query_id, [each.id for each in group.candidates]) for group in kept] == [("b", ["large"])]
    assert "2 of 3 queries have no model to choose, and are left out." in capsys.readouterr().err
    with pytest.raises(ConfigError, match="both weights are 0"):
        SOURCES.build({"name": "routing", "queries": queries, "balance": {"performance": 0}}, path="source")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"scores": {"smal": 1}}, "found 'smal', which is not among the models"),
        ({"scores": {"small": "good"}}, 'small: found "good", expected a number'),
        ({"scores": [1, 2]}, r"scores: found \[1, 2\], expected an object with a number for each model"),
        ({"scores": {"small": 1}, "split": "dev"}, 'split: found "dev", expected train, val or test'),
        ({"query_id": "a", "scores": {"small": 1}}, "'a' was already used in queries.jsonl, line 1"),
        ({"query": " ", "scores": {"small": 1}}, "query: empty; expected text"),
    ],
)
def test_bad_rows_are_named(row: dict[str, Any], message: str, tmp_path: Path, models: str) -> None:
    path = write(tmp_path / "queries.jsonl", [*QUERIES, {"query_id": "d", "query": "four?", **row}])
    with pytest.raises(ConfigError, match=message) as caught:
        list(Routing(path, models).groups())
    assert "line 4" in str(caught.value)


def test_files_that_cannot_be_used_are_refused(queries: str, models: str, tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.jsonl", [MODELS[0], {**MODELS[0], "text": "Another."}])
    alike = write(tmp_path / "alike.jsonl", [MODELS[0], {**MODELS[0], "id": "large"}])
    none = write(tmp_path / "none.jsonl", [{"query": "one?", "scores": {"small": None}}])
    other = write(tmp_path / "other.jsonl", [{"query": "one?", "answer": 3}])
    pair = write(tmp_path / "pair.jsonl", [{"query": "one?", "model": "small", "score": 1}] * 2)
    for paths, message in {
        (queries, twice): "the id 'small' is there twice",
        (queries, alike): "small and large have the same text",
        (none, models): "no query has a score",
        (other, models): "has neither 'scores' .* nor 'model'",
        (pair, models): "'small' is there twice for the query",
        (str(tmp_path / "lost.jsonl"), models): "no such file",
    }.items():
        with pytest.raises(ConfigError, match=message):
            list(Routing(*paths).groups())


def test_a_store_holds_performances_and_costs(queries: str, models: str, tmp_path: Path) -> None:
    node = {"name": "routing", "queries": queries, "models": models, "balance": {"cost": 1}}
    path = TextsExtractor(node, path=str(tmp_path / "store")).run()
    store = GroupStore.open(path, verify=True)
    assert store.performance is not None and store.performance.tolist() == [0.5, 1, 1, 1, 0]
    assert store.cost is not None and store.cost.tolist() == [1, 3, 1, 9, 3]
    assert store.label.tolist() == [0.5, 0.75, 1, 0, -0.25]
