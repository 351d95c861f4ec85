"""Two processes train and judge as one does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from registry import load_config
from training.run import train

REPOSITORY = Path(__file__).resolve().parents[2]


def train_in_processes(config: Path, folder: Path, *overrides: str) -> dict:
    environment = {**os.environ, "RANKERS_RUN_DIR": str(folder)}
    command = [sys.executable, str(REPOSITORY / "train.py"), "--config", str(config), *overrides]
    done = subprocess.run(command, cwd=config.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bootstrap intervals") == 1, "one process prints the table"
    return json.loads((folder / "metrics.json").read_text())


def train_here(config: Path, folder: Path) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANKERS_RUN_DIR", str(folder))
        return dict(train(load_config(config, []), config.stem).metrics)


def test_two_processes_give_the_metrics_and_weights_of_one(run_config: Callable[..., Path], tmp_path: Path) -> None:
    # SGD, since AdamW makes steps of noise where a gradient is 0 in theory, as that of attention's key bias is.
    config = run_config(trainer={"max_epochs": 3}, datamodule={"batch_size": 8}, ranker={"optimizer": "sgd"})
    one = train_here(config, tmp_path / "one")
    two = train_in_processes(config, tmp_path / "two", "trainer.devices=2", "trainer.strategy=ddp")

    for split in ("val", "test"):
        assert one[split]["queries"] == two[split]["queries"] == 24
        for scorer, metrics in one[split]["scorers"].items():
            for metric, interval in metrics.items():
                assert two[split]["scorers"][scorer][metric]["mean"] == pytest.approx(interval["mean"], abs=1e-6)
    weights = [torch.load(tmp_path / name / "best.ckpt", weights_only=True)["state_dict"] for name in ("one", "two")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-5, rtol=1e-4)
    assert (tmp_path / "one" / "per_query.csv").read_text().count("\n") == 1 + 24 * 6
    ids = [(tmp_path / name / "run.trec").read_text().split("\n") for name in ("one", "two")]
    assert [line.split(" ")[:4] for line in ids[0]] == [line.split(" ")[:4] for line in ids[1]]
