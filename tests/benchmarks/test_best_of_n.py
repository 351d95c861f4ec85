"""A run's test problems are asked of a server and answered without one, with the same result."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks.best_of_n import run_best_of_n
from features.generators.transformers import TransformersGenerator
from rankers.checkpoint import save_pretrained
from rankers.language_ranker.point_ranker import PointRanker
from registry import ConfigError


@pytest.fixture
def run(chat_llama: Path, tmp_path: Path) -> Path:
    """A folder with a ranker and the config of a run."""
    rows = [{"query_id": str(n), "query": f"sort {n}", "answer": n % 3, "split": "test"} for n in range(4)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options: dict[str, Any] = {"model": str(chat_llama), "depths": [0.5], "dtype": "float32", "max_new_tokens": 8}
    torch.manual_seed(0)
    ranker = PointRanker(feature_dim=32)
    ranker.encoder = TransformersGenerator(**options).identity()
    config = {
        "ranker": {"name": "point_ranker"},
        "datamodule": {"name": "grouped_features"},
        "features": {
            "name": "responses",
            "source": {"name": "problems", "path": str(tmp_path / "problems.jsonl")},
            "generator": {"name": "transformers", **options, "num_responses": 3},
            "verifier": "final_number",
        },
    }
    folder = save_pretrained(ranker, tmp_path / "run")
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_the_endpoint_has_the_accuracy_of_the_offline_path(run: Path, tmp_path: Path) -> None:
    run_best_of_n(run, 3, tmp_path, Console())
    found = json.loads((tmp_path / "best_of_n.json").read_text())
    assert (found["problems"], found["n"], found["all responses equal"], found["the same text chosen"]) == (3, 3, 3, 3)
    alone = found["accuracy"]["endpoint"].pop("one response")
    assert found["accuracy"]["endpoint"] == found["accuracy"]["offline"]
    assert alone == found["accuracy"]["offline"]["the first of N"] <= found["accuracy"]["offline"]["oracle"]


def test_a_run_without_test_problems_and_one_that_sampled_nothing_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no problem to ask: its source gives none to the test"):
        (tmp_path / "problems.jsonl").write_text('{"query_id": "1", "query": "sort", "answer": 1, "split": "train"}\n')
        run_best_of_n(run, 3, tmp_path, Console())
    config = json.loads((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(json.dumps({**config, "features": None}))
    with pytest.raises(ConfigError, match="is no run of a ranker of responses that a verifier judges"):
        run_best_of_n(run, 3, tmp_path, Console())
