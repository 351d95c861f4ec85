"""Tables of trained rankers: every cell is trained once, kept, and shown."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import cells
from benchmarks.cells import Cells
from registry import load_config
from registry.config import to_yaml


@pytest.fixture
def table(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cells:
    """Two variants and two seeds of a short run, in this process."""
    monkeypatch.setattr(cells, "in_own_process", lambda function, *arguments: function(*arguments))
    config = {
        "ranker": {"name": "point_ranker", "num_blocks": 0},
        "datamodule": {"name": "grouped_features", "path": str(store), "batch_size": 32},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (tmp_path / "short.yaml").write_text(to_yaml(config))
    return Cells(
        name="short",
        question="What does a block add?",
        config=str(tmp_path / "short.yaml"),
        variants={"none": [], "one": ["ranker.num_blocks=1"]},
        columns={"mrr": lambda cell: cell["scorers"]["point_ranker"]["mrr"], "files": lambda cell: cell["files"]},
        seeds=(0, 1),
        afterwards=lambda path: {"files": str(len(list(path.glob("*.ckpt"))))},
    )


def test_every_variant_is_trained_with_every_seed_and_none_twice(
    table: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, runs = tmp_path / "results", tmp_path / "runs"
    first = table.run(results, runs, Console(quiet=True))
    assert [(cell["variant"], cell["seed"]) for cell in first["cells"]] == [
        ("none", 0), ("none", 1), ("one", 0), ("one", 1)
    ]  # fmt: skip
    written = [json.loads(file.read_text()) for file in runs.glob("short/*/metrics.json")]
    means = {metrics["test"]["scorers"]["point_ranker"]["mrr"]["mean"] for metrics in written}
    assert {cell["scorers"]["point_ranker"]["mrr"] for cell in first["cells"]} == means

    monkeypatch.setattr(cells, "in_own_process", lambda *_: pytest.fail("trained again"))
    assert table.run(results, runs, Console(quiet=True)) == json.loads((results / "short.json").read_text()) == first


def test_a_stopped_table_keeps_what_is_done(table: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def twice(function: Callable[..., Any], *arguments: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(function(*arguments))
        return done[-1]

    monkeypatch.setattr(cells, "in_own_process", twice)
    with pytest.raises(KeyboardInterrupt):
        table.run(tmp_path, tmp_path / "runs", Console(quiet=True))
    assert len(json.loads((tmp_path / "short.json").read_text())["cells"]) == 2


def test_tables_show_the_mean_over_seeds_and_each_of_them(table: Cells) -> None:
    made = [
        {"variant": variant, "seed": seed, "scorers": {"point_ranker": {"mrr": value}}, "files": "2"}
        for variant, seed, value in (("none", 0, 0.5), ("none", 1, 0.25), ("one", 0, 1.0))
    ]
    assert table.markdown({"cells": made}).splitlines() == [
        "| | mrr | files |",
        "|---|---|---|",
        "| none | 0.375 (0.500 / 0.250) | 2 |",
        "| one | 1.000 | 2 |",
    ]
    assert table.table({"cells": made}).row_count == 2


@pytest.mark.parametrize("name", ["ablations", "templates"])
def test_the_options_of_every_cell_are_options(name: str) -> None:
    table = importlib.import_module(f"benchmarks.{name}").TABLE
    for overrides in table.variants.values():
        load_config(table.config, overrides)
