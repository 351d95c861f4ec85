"""Tables over pools: a run is judged on its pool mixed with others, with the change beside, and seeds are counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pools import write_pool
from rich.console import Console

from benchmarks.tables.command import run_table
from benchmarks.tables.config import TableSpec
from registry import ConfigError, load_config
from registry.config import to_yaml
from training.run import mixed_pools


@pytest.fixture
def pool_table(tiny_bert: Path, tmp_path: Path) -> Callable[..., str]:
    """Write the yaml of a table of one short run of LRanker on the small pool."""
    write_pool(tmp_path / "pool")
    run = {
        "ranker": {
            "name": "lranker",
            "backbone": {"model": str(tiny_bert)},
            "template": "{query} <|embedding|>",
            "max_length": 32,
            "aggregator": {"name": "kmeans", "num_centroids": 4},
            "scaling": None,
        },
        "datamodule": {
            "name": "partitioned_candidates",
            "path": str(tmp_path / "pool"),
            "num_partitions": 4,
            "num_splits": 2,
        },
        "references": ["encoder"],
        "logger": None,
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (tmp_path / "short.yaml").write_text(to_yaml(run))

    def written(**changes: Any) -> str:
        rows = [{"name": "LRanker"}, {"name": "encoder", "of": "LRanker", "scorer": "encoder"}]
        content = {"question": "Which?", "config": str(tmp_path / "short.yaml"), "rows": rows, **changes}
        (tmp_path / "small.yaml").write_text(to_yaml(content))
        return str(tmp_path / "small.yaml")

    return written


@pytest.mark.slow
def test_a_run_is_judged_on_its_pool_mixed_with_others_and_the_drop_stands_beside(
    pool_table: Callable[..., str], here: list[str], tmp_path: Path
) -> None:
    # The same candidates again, so that each ties with its copy: a relevant one has rank r or 2 r.
    write_pool(tmp_path / "copy")
    columns = [
        {"name": "alone"},
        {"name": "mixed", "judged": [f"datamodule.mixed_with=[{tmp_path / 'copy'}]"]},
        {"name": "change", "value": "change", "between": ["alone", "mixed"]},
        {"name": "below", "value": "below", "over": "encoder"},
    ]
    paper = {"LRanker": {"change": "-5.9 %"}}
    name = pool_table(columns=columns, sections=[{"paper": paper}])
    run_table(name, [], tmp_path / "results", tmp_path / "table_runs", Console(quiet=True))
    assert len(here) == 2 and len(set(here)) == 1
    cells = json.loads((tmp_path / "results/small.json").read_text())["cells"]
    alone, mixed = ({row: cell["scorers"][row]["mrr"] for row in ("lranker", "encoder")} for cell in cells)
    assert all(alone[row] / 2 < mixed[row] < alone[row] for row in alone)
    text = (tmp_path / "results/small.md").read_text()
    for row in alone:
        assert f"{100 * (mixed[row] / alone[row] - 1):+.1f} %" in text
    assert "(-5.9 %)" in text
    assert f"{int(alone['lranker'] < alone['encoder'] - 1e-9)} of 1; mean" in text


def test_a_run_without_anything_to_train_is_judged_on_mixed_pools_too(
    pool_table: Callable[..., str], here: list[str], tmp_path: Path
) -> None:
    write_pool(tmp_path / "copy")
    columns = [{"name": "alone"}, {"name": "mixed", "judged": [f"datamodule.mixed_with=[{tmp_path / 'copy'}]"]}]
    rows = [{"name": "encoder alone", "overrides": ["ranker={name: encoder}", "references=[bm25]"]}]
    name = pool_table(columns=columns, rows=rows)
    run_table(name, [], tmp_path / "results", tmp_path / "table_runs", Console(quiet=True))
    cells = json.loads((tmp_path / "results/small.json").read_text())["cells"]
    alone, mixed = (cell["scorers"]["encoder"]["mrr"] for cell in cells)
    assert alone / 2 < mixed < alone and len(here) == 2


@pytest.mark.parametrize(("columns", "path", "problem"), [
    ([{"name": "a"}, {"name": "b", "value": "change"}], "columns[1].between", "a change is between two columns"),
    ([{"name": "a", "between": ["a", "a"]}], "columns[0].between", "a change is between two columns"),
    ([{"name": "a"}, {"name": "b", "value": "change", "between": ["a", "c"]}], "columns[1].between", "no such column"),
    ([{"name": "a", "value": "below"}], "columns[0].over", "needs the scorer it is measured against"),
])  # fmt: skip
def test_a_change_without_its_two_columns_is_an_error(
    pool_table: Callable[..., str], columns: list[dict[str, Any]], path: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        TableSpec.load(pool_table(columns=columns))
    assert error.value.path == path


def test_pools_that_are_named_by_a_config_are_built_with_the_encoder_of_the_run(
    tiny_bert: Path, tmp_path: Path
) -> None:
    lines = [json.dumps({"id": f"c{row}", "text": f"sort list {row}"}) for row in range(5)]
    (tmp_path / "candidates.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"id": "q", "text": "sort"}))
    (tmp_path / "qrels.txt").write_text("q 0 c1 1\n")
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("candidates", "queries")}
    source = {"name": "pool_files", **files, "qrels": str(tmp_path / "qrels.txt")}
    features = {"name": "candidate_pool", "source": source, "path": str(tmp_path / "built")}
    (tmp_path / "other.yaml").write_text(to_yaml({"features": features}))
    encoder = f"{{model: {tiny_bert}, max_length: 16, device: cpu}}"
    config = load_config(
        "lranker_quickstart.yaml",
        [f"features.encoder={encoder}", f"datamodule.mixed_with=[{tmp_path / 'other.yaml'}, {tmp_path / 'given'}]"],
    )
    built: list[Any] = []

    def build(extractor: Any) -> str:
        built.append(extractor)
        return str(extractor.path)

    assert mixed_pools(config, build) == [str(tmp_path / "built"), str(tmp_path / "given")]
    assert built[0].encoder.max_length == 16


@pytest.mark.slow
def test_a_row_fuses_the_runs_of_other_rows_with_the_same_seed(
    pool_table: Callable[..., str], here: list[str], tmp_path: Path
) -> None:
    bare = "ranker={name: encoder, metrics: [mrr]}"
    rows = [
        {"name": "all", "fuses": ["LRanker"], "overrides": ["ranker={name: fusion, rankers: [popularity]}"]},
        {"name": "LRanker"},
        {"name": "encoder", "overrides": [bare]},
    ]
    name = pool_table(columns=[{"name": "mrr"}], rows=rows, seeds=[0, 1])
    run_table(name, [], tmp_path / "results", tmp_path / "table_runs", Console(quiet=True))
    cells = {
        (cell["row"], cell["seed"]): cell for cell in json.loads((tmp_path / "results/small.json").read_text())["cells"]
    }
    for seed in (0, 1):
        fused, alone = (cells[row, seed]["scorers"] for row in ("all", "LRanker"))
        assert fused["lranker"]["mrr"] == pytest.approx(alone["lranker"]["mrr"], rel=1e-4)
    assert len(here) == len(set(here)) == 6, "no run twice, and those that are fused first"
    with pytest.raises(ConfigError, match="the ranker of encoder is encoder"):
        [
            *TableSpec.load(
                pool_table(columns=[{"name": "mrr"}], rows=[rows[1], {**rows[2], "fuses": ["LRanker"]}])
            ).cells()
        ]
    with pytest.raises(ConfigError, match="no such row to fuse"):
        TableSpec.load(pool_table(columns=[{"name": "mrr"}], rows=[rows[1], {**rows[0], "fuses": ["all"]}]))
