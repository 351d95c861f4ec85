"""A run that is killed anywhere ends, once resumed, with the weights of the run that was not."""

import json
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from forks import run_in_forks

from training.trainer import build_trainer

KILLER = '''
"""Callbacks that stop the process at a given place, the first time only."""
import os, signal
from pathlib import Path
from lightning import Callback
from registry import CALLBACKS

@CALLBACKS.register("stop_at")
class StopAt(Callback):
    """Send a signal to this process.

    Args:
        hook: Where.
        step: At which global step, or the next time after.
        signal_number: Which.
        marker: File that remembers that it was sent.
    """

    def __init__(self, hook: str, step: int, signal_number: int, marker: str) -> None:
        self.step, self.signal_number, self.marker = step, signal_number, Path(marker)
        setattr(self, hook, self.stop)

    def stop(self, trainer, *_) -> None:
        if trainer.global_step >= self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), self.signal_number)
'''

TRAIN = """
import train, training.run
def run(arguments):
    os.environ["RANKERS_RUN_DIR"] = arguments.pop(0)
    return train.main(arguments)
"""


def run_all(folder: Path, commands: list[list[str]]) -> tuple[list[int], str]:
    """Run train.py once a command (the first word is its run folder); exit statuses, and what went to stderr."""
    statuses, _, errors = run_in_forks(folder, TRAIN, commands)
    return statuses, errors


@pytest.fixture
def config(tmp_path: Path, store: Path) -> Path:
    (tmp_path / "killer.py").write_text(KILLER)
    path = tmp_path / "run.yaml"
    path.write_text(f"""
imports: [killer]
ranker:
  name: list_ranker
  projection: {{name: linear, dim: 8}}
  block: {{name: transformer, dropout: 0.2}}
  optimizer: {{name: adamw, lr: 1e-2}}
  schedule: {{name: cosine, warmup: 0.1}}
datamodule: {{name: grouped_features, path: {store}, num_candidates: 6, batch_size: 16, groups_per_query: 2}}
trainer: {{max_epochs: 3, accelerator: cpu, enable_progress_bar: false}}
save_every: 0
runs: {tmp_path}/runs
""")
    return path


def assert_same_ending(folder: Path, expected: Path) -> None:
    ours, theirs = (torch.load(path / "last.ckpt", weights_only=True) for path in (folder, expected))
    assert ours["global_step"] == theirs["global_step"]
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, weight in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], weight), name
    for name, state in theirs["optimizer_states"][0]["state"].items():
        assert all(torch.equal(ours["optimizer_states"][0]["state"][name][key], value) for key, value in state.items())
    ours, theirs = (json.loads((path / "metrics.json").read_text()) for path in (folder, expected))
    assert ours["test"] == theirs["test"] and ours["val"] == theirs["val"] and ours["monitor"] == theirs["monitor"]


@pytest.mark.slow
def test_killed_runs_end_bit_for_bit_like_the_one_that_was_not(config: Path, tmp_path: Path) -> None:
    places = {
        "in_mid_epoch": ("on_train_batch_start", 3),
        "in_a_later_epoch": ("on_train_batch_start", 20),
        "in_validation": ("on_validation_start", 1),
        "after_validation": ("on_validation_end", 1),
        "at_the_first_step": ("on_train_batch_start", 0),
        "in_the_test": ("on_test_start", 1),
    }
    commands, killed = [[f"{tmp_path}/whole", "--config", str(config)]], []
    for name, (hook, step) in places.items():
        node = f"{{name: stop_at, hook: {hook}, step: {step}, signal_number: 9, marker: {tmp_path}/{name}.marker}}"
        commands.append([f"{tmp_path}/{name}", "--config", str(config), f"callbacks=[{node}]"])
        killed.append(len(commands) - 1)
        commands.append(["unused", "--resume", f"{tmp_path}/{name}"])

    statuses, errors = run_all(tmp_path, commands)

    assert statuses == [-signal.SIGKILL if place in killed else 0 for place in range(len(commands))], errors
    for name in places:
        assert_same_ending(tmp_path / name, tmp_path / "whole")


def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(config: Path, tmp_path: Path) -> None:
    node = f"{{name: stop_at, hook: on_train_batch_start, step: 5, signal_number: 2, marker: {tmp_path}/marker}}"
    commands = [
        [f"{tmp_path}/whole", "--config", str(config)],
        [f"{tmp_path}/stopped", "--config", str(config), "save_every=1000", f"callbacks=[{node}]"],
        ["unused", "--resume", f"{tmp_path}/stopped"],
    ]

    statuses, errors = run_all(tmp_path, commands)

    assert statuses == [0, 130, 0], errors
    assert f"python train.py --resume {tmp_path}/stopped" in errors
    assert "Traceback" not in errors
    assert_same_ending(tmp_path / "stopped", tmp_path / "whole")


def test_a_checkpoint_is_whole_or_the_one_before_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop:
        def __reduce__(self) -> tuple:
            raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "mkstemp", None)  # the system's temporary folder may lie on another disk
    strategy, path = build_trainer({"accelerator": "cpu"}).strategy, tmp_path / "run" / "last.ckpt"
    strategy.save_checkpoint({"step": 1}, path)
    with pytest.raises(KeyboardInterrupt):
        strategy.save_checkpoint({"step": 2, "weights": torch.zeros(10_000), "then": Stop()}, path)
    assert strategy.load_checkpoint(path, weights_only=True) == {"step": 1}


def test_accumulated_gradients_are_never_lost(config: Path, tmp_path: Path) -> None:
    node = f"{{name: stop_at, hook: on_train_batch_start, step: 2, signal_number: 9, marker: {tmp_path}/marker}}"
    accumulate = "trainer.accumulate_grad_batches=3"
    commands = [
        [f"{tmp_path}/whole", "--config", str(config), accumulate],
        [f"{tmp_path}/stopped", "--config", str(config), accumulate, f"callbacks=[{node}]"],
        ["unused", "--resume", f"{tmp_path}/stopped"],
    ]

    statuses, errors = run_all(tmp_path, commands)

    assert statuses == [0, -signal.SIGKILL, 0], errors
    assert_same_ending(tmp_path / "stopped", tmp_path / "whole")
