"""A reward model on two processes, its weights copied or sharded, ends with the weights of one process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_processes import REPOSITORY, train_in_processes

import train as script
from registry import load_config
from registry.config import to_yaml
from training.run import train


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "strategy"), [("all", "ddp"), ("lora", "fsdp2")])
def test_a_reward_model_on_two_processes_ends_with_the_weights_of_one(
    store: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, strategy: str
) -> None:
    config: dict[str, Any] = {
        "ranker": {
            "name": "reward_model",
            "backbone": {"model": str(tiny_llama), "dtype": "float32"},
            "template": "plain",
            "max_length": 64,
            "train": weights,
            "optimizer": {"name": "sgd", "lr": 0.05},
        },
        "datamodule": {"name": "text_groups", "path": str(store), "batch_size": 8, "drop_unordered": False},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "gradient_clip_val": 1.0},
    }
    if weights == "lora":
        config["ranker"]["lora"] = {"rank": 4, "alpha": 8}
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    monkeypatch.setenv("RANKERS_RUN_DIR", str(tmp_path / "one"))
    one = dict(train(load_config(tmp_path / "run.yaml", []), "run").metrics)
    two = train_in_processes(
        tmp_path / "run.yaml", tmp_path / "two", "trainer.devices=2", f"trainer.strategy={strategy}"
    )
    for split in ("val", "test"):
        for scorer, metrics in one[split]["scorers"].items():
            for metric, interval in metrics.items():
                assert two[split]["scorers"][scorer][metric]["mean"] == pytest.approx(interval["mean"], abs=1e-6)
    before, after = (
        torch.load(tmp_path / name / "best.ckpt", weights_only=True)["state_dict"] for name in ("one", "two")
    )
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_of_shards_goes_on_from_its_checkpoint(store: Path, tiny_llama: Path, tmp_path: Path) -> None:
    config = {
        "ranker": {
            "name": "reward_model",
            "backbone": {"model": str(tiny_llama), "dtype": "float32"},
            "template": "plain",
            "max_length": 64,
            "lora": {"rank": 4, "alpha": 8},
            "schedule": "constant",
        },
        "datamodule": {"name": "text_groups", "path": str(store), "batch_size": 8},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "devices": 2, "strategy": "fsdp2"},
    }
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    train_in_processes(tmp_path / "run.yaml", tmp_path / "whole", "trainer.max_epochs=2")
    train_in_processes(tmp_path / "run.yaml", tmp_path / "parts", "trainer.max_epochs=1")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [
        sys.executable,
        str(REPOSITORY / "train.py"),
        "--resume",
        str(tmp_path / "parts"),
        "trainer.max_epochs=2",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, parts = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("whole", "parts")
    )
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-6)


def test_rankers_that_cannot_be_sharded_are_refused(
    run_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--config", str(run_config()), "trainer.strategy=fsdp2", "trainer.devices=2"]) == 1
    assert "trainer.strategy: the weights of list_ranker cannot be sharded" in capsys.readouterr().err
