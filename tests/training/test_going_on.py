"""What a resumed run may change, what it refuses, and what it keeps when something is wrong."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import REPOSITORY, Fork, run_in_forks
from run_configs import train_once, write_run_config
from test_resuming import KILLER, TRAIN

import train
from rankers.checkpoint import load_ranker
from ranking.stores.files import lock_folder
from registry import ConfigError, load_config
from training import run as run_module
from training.resuming import MAY_CHANGE, check_changes
from training.run import train as train_config


@pytest.fixture(scope="module")
def ended(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run that has ended."""
    runs = tmp_path_factory.mktemp("runs")
    file = write_run_config(store, runs, trainer={"max_epochs": 2})
    return train_once(file).path


@pytest.fixture
def finished(ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to go on with."""
    monkeypatch.delenv("RANKERS_RUN_DIR", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return Path(shutil.copytree(ended, tmp_path / "runs" / "run" / ended.name))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("override", [
    "ranker.optimizer.lr=0.5", "ranker.projection.dim=4", "ranker.name=point_ranker", "ranker.optimizer={name: sgd}",
    "ranker.temperature=1", "ranker.loss=mse", "datamodule.batch_size=16", "datamodule.num_candidates=3", "seed=1",
    "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1", "trainer.precision=bf16-mixed",
    "monitor=val/mrr@3", "ranker.schedule=cosine", "ranker.block=mlp", "datamodule.groups_per_query=2",
])  # fmt: skip
def test_an_override_that_would_make_it_another_run_is_refused_and_nothing_is_written(
    override: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    assert train.main(["--resume", str(finished), override]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{finished / 'config.yaml'}: "), "the folder's name alone looks like the time of a log"
    assert override.partition("=")[0] in error and "trainer.max_epochs" in error and "Traceback" not in error
    assert contents(finished) == before


def test_more_epochs_are_trained_and_the_schedule_follows_them(finished: Path) -> None:
    assert train.main(["--resume", str(finished), "trainer.max_epochs=4"]) == 0
    assert torch.load(finished / "last.ckpt", weights_only=True)["epoch"] == 3
    assert load_config(finished / "config.yaml", []).trainer["max_epochs"] == 4


def test_a_run_that_stopped_early_trains_on_only_with_more_patience(
    run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = {"name": "early_stopping", "patience": 1, "min_delta": 1.0}
    folder = train_config(load_config(run_config(callbacks=[stopping], trainer={"max_epochs": 20}), []), "run").path
    monkeypatch.delenv("RANKERS_RUN_DIR", raising=False)
    more = "callbacks=[{name: early_stopping, patience: 2, min_delta: 1.0}]"
    for changes, last in ([], 1), ([more], 2):
        assert train.main(["--resume", str(folder), *changes]) == 0
        assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == last


def test_every_option_that_may_change_is_accepted_and_other_ones_near_it_are_not(
    run_config: Callable[..., Path],
) -> None:
    before = load_config(run_config(), [])
    check_changes(before, load_config(run_config(), ["save_every=5", "logger=[]", "trainer.max_steps=9"]))
    for option in ("trainer.max_depth", "ranker.metrics", "runs"):
        assert not option.startswith(MAY_CHANGE)
    with pytest.raises(ConfigError, match="runs: cannot change in a run that goes on"):
        check_changes(before, load_config(run_config(), ["runs=elsewhere"]))


def keep_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit_of_a_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    weight = next(iter(torch.load(path, weights_only=True)["state_dict"].values()))
    place = content.find(weight.numpy().tobytes())
    assert place > 0
    content[place] ^= 1
    path.write_bytes(content)


def drop_the_optimizer(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["optimizer_states"]
    torch.save(checkpoint, path)


def take_another_rankers(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    name, weight = next(iter(checkpoint["state_dict"].items()))
    checkpoint["state_dict"][name] = weight[:1].clone()
    torch.save(checkpoint, path)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut": keep_half,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no checkpoint"),
    "bit": flip_a_bit_of_a_weight,
    "no optimizer": drop_the_optimizer,
    "other weights": take_another_rankers,
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "no weights": lambda path: torch.save({"state_dict": None}, path),
    "no ranker": lambda path: torch.save({"state_dict": {}}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_last_checkpoint_is_named_and_nothing_is_overwritten(
    damage: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[damage](finished / "last.ckpt")
    before = contents(finished)
    assert train.main(["--resume", str(finished), "trainer.max_epochs=3"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{finished / 'last.ckpt'}: ") and "Traceback" not in error
    assert "\n  What to do:   " in error
    assert contents(finished) == before


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "gone"])
def test_a_damaged_best_checkpoint_is_named_before_training_goes_on(
    damage: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = finished / "best.ckpt"
    best.unlink() if damage == "gone" else DAMAGES[damage](best)
    before = contents(finished)
    assert train.main(["--resume", str(finished), "trainer.max_epochs=3"]) == 1
    assert str(best) in capsys.readouterr().err and contents(finished) == before


@pytest.mark.parametrize("also", [".saved", "metrics.json"])
def test_a_lost_last_checkpoint_is_missed(also: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("last.ckpt", also):
        (finished / name).unlink()
    before = contents(finished)
    assert train.main(["--resume", str(finished), "trainer.max_epochs=3"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{finished / 'last.ckpt'}: is missing: without it the run would begin again.")
    assert "copy it back, or begin a new run with the config.yaml of this one" in error
    assert contents(finished) == before


def test_a_run_that_was_stopped_before_its_first_save_begins_again(
    finished: Path, ended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Also after the first best.ckpt, which is written before last.ckpt.
    for name in ("last.ckpt", ".saved", "metrics.json"):
        (finished / name).unlink()
    assert train.main(["--resume", str(finished)]) == 0
    assert "the run was stopped before its first save: it begins again" in capsys.readouterr().out
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (torch.load(run / name, weights_only=True)["state_dict"] for run in (finished, ended))
        assert all(torch.equal(ours[each], weight) for each, weight in theirs.items())


def test_weights_with_a_changed_bit_are_not_loaded(finished: Path) -> None:
    flip_a_bit_of_a_weight(finished / "best.ckpt")
    with pytest.raises(ConfigError, match="checksum"):
        load_ranker(finished)


def test_a_run_that_was_moved_remembers_its_best_score(finished: Path, tmp_path: Path) -> None:
    before = torch.load(finished / "best.ckpt", weights_only=True)
    # A score that no epoch reaches: only if it is forgotten does a later epoch replace the best.
    last = torch.load(finished / "last.ckpt", weights_only=True)
    (key,) = [key for key in last["callbacks"] if key.startswith("ModelCheckpoint")]
    state = last["callbacks"][key]
    unreachable = torch.tensor(2.0)
    state["best_model_score"] = state["kth_value"] = unreachable
    state["best_k_models"] = dict.fromkeys(state["best_k_models"], unreachable)
    torch.save(last, finished / "last.ckpt")
    moved = Path(shutil.move(finished, tmp_path / "elsewhere"))
    assert train.main(["--resume", str(moved), "trainer.max_epochs=4"]) == 0
    after = torch.load(moved / "best.ckpt", weights_only=True)
    assert after["global_step"] == before["global_step"] and not finished.exists()


def test_a_run_that_another_process_is_at_is_left_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, lock = contents(finished), lock_folder(finished)
    assert lock is not None
    try:
        assert train.main(["--resume", str(finished), "trainer.max_epochs=3"]) == 1
    finally:
        os.close(lock)
    assert "another process is at this run" in capsys.readouterr().err and contents(finished) == before


def test_a_start_that_fails_leaves_no_folder(run_config: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        train_config(load_config(run_config(), ["trainer.devices=3", "trainer.strategy=no_such_strategy"]), "run")
    assert not list((tmp_path / "runs").glob("*/*"))


def test_a_full_disk_ends_a_run_with_one_error(
    run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes, *_: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("ranking.stores.files.os.fsync", lambda descriptor: full(Path("last.ckpt"), b""))
    assert train.main(["--config", str(run_config())]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and "make room" in error and "Traceback" not in error


@pytest.mark.parametrize("name", ["metrics.json", "per_query.csv", "run.trec"])
def test_a_disk_that_is_full_after_training_says_how_to_go_on(
    name: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target).name == name:
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    assert train.main(["--resume", str(finished)]) == 1
    assert f"make room, then: python train.py --resume {finished}\n" in capsys.readouterr().err


def test_ctrl_c_in_the_test_says_how_to_test(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module.Report, "of", pressed)
    assert train.main(["--resume", str(finished)]) == 130
    assert f"stopped after training; test it with:\n  python train.py --resume {finished}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_saves_says_how_to_go_on_and_is_the_exit_status(
    name: str, run_config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    number, marker = int(getattr(signal, name)), tmp_path / "marker"
    node = f"{{name: stop_at, hook: on_train_batch_start, step: 3, signal_number: {number}, marker: {marker}}}"
    config = run_config(trainer={"max_epochs": 3}, save_every=1000, imports=["killer"])
    folder = tmp_path / "stopped"
    commands = [[str(folder), "--config", str(config), f"callbacks=[{node}]"], ["unused", "--resume", str(folder)]]
    statuses, _, errors = run_in_forks(tmp_path, TRAIN, commands)
    assert statuses == [128 + number, 0], errors
    assert f"python train.py --resume {folder}" in errors and "Traceback" not in errors
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 6


# One handler takes both; only SIGTERM shows that it is there, since SIGINT would stop the test all the same.
@pytest.mark.parametrize(
    ("name", "hook"),
    [("SIGTERM", "on_test_batch_start"), ("SIGTERM", "on_test_end"), ("SIGINT", "on_test_batch_start")],
)
def test_a_signal_in_the_test_says_how_to_test_and_is_the_exit_status(
    name: str, hook: str, run_config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    number, folder = int(getattr(signal, name)), tmp_path / "stopped"
    node = f"{{name: stop_at, hook: {hook}, step: 1, signal_number: {number}, marker: {tmp_path / 'marker'}}}"
    config = run_config(imports=["killer"])
    commands = [[str(folder), "--config", str(config), f"callbacks=[{node}]"], ["unused", "--resume", str(folder)]]
    statuses, _, errors = run_in_forks(tmp_path, TRAIN, commands)
    assert statuses == [128 + number, 0], errors
    assert f"stopped after training; test it with:\n  python train.py --resume {folder}" in errors
    assert (folder / "metrics.json").exists()


@pytest.mark.parametrize("override", ["trainer.max_epochs=0", "trainer.max_steps=1"])
def test_less_training_than_there_was_is_refused_and_nothing_is_written(
    override: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "config.yaml").read_bytes()
    assert train.main(["--resume", str(finished), override]) == 1
    assert "is less than the" in capsys.readouterr().err
    assert (finished / "config.yaml").read_bytes() == before


def test_signals_are_only_taken_over_in_the_main_thread(finished: Path) -> None:
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(train.main(["--resume", str(finished)])))
    thread.start()
    thread.join()
    assert statuses == [0]


def test_a_second_process_is_told_that_the_first_is_at_the_run(finished: Path) -> None:
    lock = lock_folder(finished)
    assert lock is not None
    second = Fork(REPOSITORY / "train.py", ["--resume", finished])
    _, errors = second.communicate()
    os.close(lock)
    assert second.returncode == 1 and "another process is at this run" in errors


def test_what_auto_became_is_kept_with_the_run(run_config: Callable[..., Path]) -> None:
    folder = train_config(load_config(run_config(trainer={"precision": "auto"}), []), "run").path
    assert load_config(folder / "config.yaml", []).trainer["precision"] == "32-true"
