"""Every table of LRanker runs in a tiny form: its rows, columns and overrides, on small pools and a tiny backbone."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pools import write_pool
from rich.console import Console

from benchmarks.tables import command
from benchmarks.tables.config import Cell, TableSpec
from rankers.prompted.prompted import Prompted
from registry import RANKERS, RunConfig
from registry.config import CONFIGS

NAMES = ["ablations", "few_queries", "templates", "recommenders"]
TABLES = [*NAMES, *sorted(path.stem for path in (CONFIGS / "tables").glob("lranker_*.yaml"))]
SMALL = {"dim": 8, "num_layers": 1, "num_heads": 2, "head_dim": 4, "hidden_dim": 8, "num_codes": 8, "num_levels": 2}
SHORT = {"max_length": 64, "max_query_length": 16, "num_beams": 5, "num_negatives": 4, "num_samples": 8}
SCALING = {"widths": [2], "max_depth": 1, "num_queries": None, "limit": 100}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pools, routing data, and the runs that tables share."""
    home = tmp_path_factory.mktemp("tiny")
    for name, own in (("pool", False), ("other", False), ("listed", True)):
        write_pool(home / name, own=own)
    scores = ({"small": row % 2, "large": row % 3 / 2, "huge": 1 - row % 2} for row in range(60))
    lines = [{"query_id": f"q{row}", "query": f"sort list {row}", "scores": each} for row, each in enumerate(scores)]
    (home / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)))
    models = [{"id": name, "text": f"the {name} one", "cost": 1} for name in ("small", "large", "huge")]
    (home / "models.jsonl").write_text("\n".join(map(json.dumps, models)))
    return home


def tiny(config: RunConfig, home: Path, model: Path) -> RunConfig:
    """The same run with everything that is large made small."""
    ranker, datamodule = dict(config.ranker), dict(config.datamodule)
    ranker |= {name: value for name, value in (SMALL | SHORT).items() if ranker.get(name) is not None}
    if "backbone" in ranker:
        ranker["backbone"] = {"model": str(model)}
    if ranker["name"] == "cross_encoder":
        ranker |= {"head": "new", "train": "all", "rerank": {"first": "encoder", "top": 3}}
    if ranker["name"] == "lranker":
        places = ranker["aggregator"] is not None and ranker["injection"] == "placeholder"
        ranker["template"] = "{query} <|embedding|>" if places else "{query}"
        if ranker["aggregator"] is not None:
            ranker["aggregator"] |= {
                name: value for name, value in (("num_centroids", 3), ("assign_dim", 4)) if name in ranker["aggregator"]
            }
        if ranker["scaling"] is not None:
            ranker["scaling"] |= SCALING
    features: Any = config.features
    if features and features["source"]["name"] == "routing":
        files = {name: str(home / f"{name}.jsonl") for name in ("queries", "models")}
        features = {**features, "source": {**features["source"], **files}, "path": str(home / features["name"])}
        if "encoder" in features:
            features["encoder"] = {"model": str(model), "max_length": 16, "device": "cpu"}
    else:
        features = None
        datamodule["path"] = str(home / ("listed" if datamodule.get("candidates") == "own" else "pool"))
    for name, most in (("num_partitions", 2), ("num_splits", 1), ("batch_size", 8), ("num_labelled", 12)):
        if datamodule.get(name) is not None:
            datamodule[name] = min(datamodule[name], most)
    if datamodule.get("mixed_with"):
        datamodule["mixed_with"] = [str(home / "other")]
    trainer = {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False}
    shrunk = {"features": features, "ranker": ranker, "datamodule": datamodule, "trainer": trainer}
    return dataclasses.replace(config, **shrunk, logger=[], callbacks=[])


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_lranker_runs_in_a_tiny_form(
    name: str, home: Path, tiny_bert: Path, here: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cells_of = TableSpec.cells

    def small(cell: Cell) -> Cell:
        configs = {"config": cell.config, "judged": cell.judged}
        shrunk: dict[str, Any] = {key: each and tiny(each, home, tiny_bert) for key, each in configs.items()}
        return dataclasses.replace(cell, **shrunk, name="tiny", fuses=tuple(map(small, cell.fuses)))

    def cells(spec: TableSpec) -> Iterator[Cell]:
        for cell in cells_of(spec):
            # A model that is asked has tests of its own: this one would be asked 240 times.
            if not issubclass(RANKERS.get(cell.config.ranker["name"]), Prompted):
                yield small(cell)

    monkeypatch.chdir(home)
    monkeypatch.setattr(TableSpec, "cells", cells)
    command.run_table(name, ["seeds=[0]"], tmp_path, home / "runs", Console(quiet=True))
    spec, found = TableSpec.load(name), json.loads((tmp_path / f"{name}.json").read_text())["cells"]
    assert len(found) == len([*cells(dataclasses.replace(spec, config=dataclasses.replace(spec.config, seeds=[0])))])
    text = (tmp_path / f"{name}.md").read_text()
    assert all(row.name in text for row in spec.config.rows)
