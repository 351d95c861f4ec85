"""Tables run in a tiny form: rows, columns and overrides of LRanker's, and of Language Ranker's with code of their own.

Pools, stores and backbones are tiny.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pools import write_pool
from rich.console import Console

from benchmarks.tables import command
from benchmarks.tables.config import Cell, TableSpec
from rankers.prompted.prompted import Prompted
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import RANKERS, RunConfig
from registry.config import CONFIGS

NAMES = ["ablations", "few_queries", "templates", "recommenders"]
TABLES = [*NAMES, *sorted(path.stem for path in (CONFIGS / "tables").glob("lranker_*.yaml"))]
SMALL = {"dim": 8, "num_layers": 1, "num_heads": 2, "head_dim": 4, "hidden_dim": 8, "num_codes": 8, "num_levels": 2}
SHORT = {"max_length": 64, "max_query_length": 16, "num_beams": 5, "num_negatives": 4, "num_samples": 8}
SCALING = {"widths": [2], "max_depth": 1, "num_queries": None, "limit": 100}
# Rows and columns of these tables run the same code, so every so many rows and columns are enough.
EVERY = {"templates": (7, 1), "lranker_table11": (1, 3), "lranker_figure4": (1, 3), "figure4": (1, 3), "table6": (3, 3)}


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
        ranker |= {"head": "new", "train": "all", "max_query_length": 8, "rerank": {"first": "encoder", "top": 3}}
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
    monkeypatch.chdir(home)
    run_tiny(name, lambda config: tiny(config, home, tiny_bert), home / "runs", monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table6", "figure4"])
def test_a_table_of_responses_runs_in_a_tiny_form(
    name: str, tiny_llama: Path, here: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def small(config: RunConfig) -> RunConfig:
        ranker, features = dict(config.ranker), dict[str, Any](config.features or {})
        if "backbone" in ranker:
            ranker |= {"backbone": {"model": str(tiny_llama)}, "max_length": 64, "template": "plain"}
        path = tmp_path / "-".join([features["source"]["name"], *(features["source"].get("subjects") or [])])
        if not path.exists():
            write_responses(path)
        datamodule = {**config.datamodule, "path": str(path), "groups_per_query": 1, "eval_draws": 1}
        trainer = {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False}
        shrunk: dict[str, Any] = {"features": None, "ranker": ranker, "datamodule": datamodule, "trainer": trainer}
        return dataclasses.replace(config, **shrunk, logger=[], callbacks=[])

    run_tiny(name, small, tmp_path / "runs", monkeypatch, tmp_path)
    spec = TableSpec.load(name)
    cells = [line.split(" | ")[1:] for line in (tmp_path / f"{name}.md").read_text().splitlines() if line[:3] != "|--"]
    shown = [cell for line in cells for cell in line[: len(spec.config.columns)]]
    assert len(shown) > len(spec.config.rows) and not any("–" in cell for cell in shown)
    assert (tmp_path / f"{name}.png").is_file() == (spec.config.plot is not None)
    if name == "table6":
        assert len(set(here)) == 3 and len(here) == 9


def write_responses(path: Path) -> None:
    """A store of twelve responses to each of twenty queries, with all that sampling and a beam search know."""
    num_queries, num_responses, dim = 20, 12, 8
    count, draw = num_queries * num_responses, torch.Generator().manual_seed(0)
    candidate = torch.arange(count)
    known = {"answer": candidate % 3, "log_probability": -(candidate % 7).float(), "num_tokens": candidate % 5 + 1,
             "self_certainty": candidate % 4 / 7}  # fmt: skip
    with GroupStoreWriter(path, feature_dim=dim, depths=[0.6], dtype="float32", settings={}) as writer:
        writer.add_candidates(torch.randn(count, 1, dim, generator=draw), [f"response {row}" for row in range(count)])
        writer.add_groups(
            ids=[f"q{query}" for query in range(num_queries)],
            texts=[f"query {query}" for query in range(num_queries)],
            features=torch.randn(num_queries, 1, dim, generator=draw),
            offsets=torch.arange(0, count + 1, num_responses),
            candidate=candidate,
            label=(candidate % 2).float(),
            slot_ids=[str(row % num_responses) for row in range(count)],
            split=[("train", "train", "val", "test")[query % 4] for query in range(num_queries)],
            known=known,
            beams=[(f"beam {query}", float(query % 2)) for query in range(num_queries)],
        )
        writer.finish()


def run_tiny(
    name: str, smaller: Callable[[RunConfig], RunConfig], runs: Path, monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    """Run a table with one seed, each of its cells with a smaller config, and check that all rows are written."""
    cells_of, load = TableSpec.cells, TableSpec.load
    rows, columns = EVERY.get(name, (1, 1))

    def some(*given: Any, **named: Any) -> TableSpec:
        spec = load(*given, **named)
        fewer = {"rows": spec.config.rows[::rows], "columns": spec.config.columns[::columns]}
        return dataclasses.replace(spec, config=dataclasses.replace(spec.config, **fewer))

    def small(cell: Cell) -> Cell:
        configs = {"config": cell.config, "judged": cell.judged}
        shrunk: dict[str, Any] = {key: each and smaller(each) for key, each in configs.items()}
        return dataclasses.replace(cell, **shrunk, name="tiny", fuses=tuple(map(small, cell.fuses)))

    def cells(spec: TableSpec) -> Iterator[Cell]:
        for cell in cells_of(spec):
            # A model that is asked has tests of its own: this one would be asked 240 times.
            if not issubclass(RANKERS.get(cell.config.ranker["name"]), Prompted):
                yield small(cell)

    monkeypatch.setattr(TableSpec, "cells", cells)
    monkeypatch.setattr(TableSpec, "load", some)
    command.run_table(name, ["seeds=[0]"], results, runs, Console(quiet=True))
    spec, found = TableSpec.load(name), json.loads((results / f"{name}.json").read_text())["cells"]
    assert len(found) == len([*cells(dataclasses.replace(spec, config=dataclasses.replace(spec.config, seeds=[0])))])
    text = (results / f"{name}.md").read_text()
    assert all(row.name in text for row in spec.config.rows)
