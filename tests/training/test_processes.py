"""Two processes train and judge as one does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from forks import REPOSITORY, Fork
from offline_runs import missing

from registry import ConfigError, load_config
from registry.config import to_yaml
from training.processes import _is_abandoned, _sign
from training.run import train

needs_shards = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this PyTorch cannot shard weights on a CPU"
)


def train_in_processes(folder: Path, *arguments: object, count: int = 2) -> dict:
    """Processes of one run, each with the environment that Lightning gives to those that it starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(count)}
    shared |= {"RANKERS_RUN_DIR": str(folder)}
    program, given = REPOSITORY / "train.py", [*arguments, f"trainer.devices={count}"]
    environments = [{**os.environ, **shared, "LOCAL_RANK": str(rank)} for rank in range(count)]
    return _judged(folder, [Fork(program, given, environment=each) for each in environments])


def _judged(folder: Path, processes: Sequence[Fork]) -> dict:
    outputs, errors = zip(*(each.communicate() for each in processes), strict=True)
    assert all(each.returncode == 0 for each in processes), errors
    assert "".join(outputs).count("bootstrap intervals") == 1, "one process prints the table"
    return json.loads((folder / "metrics.json").read_text())


def train_here(config: Path, folder: Path) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANKERS_RUN_DIR", str(folder))
        return dict(train(load_config(config, []), config.stem).metrics)


@pytest.mark.slow
def test_two_processes_give_the_metrics_and_weights_of_one(
    run_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    # SGD, since AdamW makes steps of noise where a gradient is 0 in theory, as that of attention's key bias is.
    config = run_config(trainer={"max_epochs": 3}, datamodule={"batch_size": 8}, ranker={"optimizer": "sgd"})
    one = train_here(config, tmp_path / "one")
    given = ["--config", config, "trainer.devices=2", "trainer.strategy=ddp", "logger=wandb"]
    first = Fork(REPOSITORY / "train.py", given, environment={**os.environ, "RANKERS_RUN_DIR": str(tmp_path / "two")})
    two = _judged(tmp_path / "two", [first])  # which starts the second one

    assert missing(tmp_path / "two", "every training") == [], "both are one W&B run"
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


def kill_all(argument: str) -> None:
    """Kill -9 every process with this argument: torchrun and those it has started."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if argument.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def by_torchrun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {name: value for name, value in os.environ.items() if name != "RANKERS_RUN_DIR"}
    return subprocess.Popen(
        [*command, str(REPOSITORY / "train.py"), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def groups_config(tiny_bert: Path, tmp_path: Path) -> Path:
    """A run that first builds its features."""
    rows = [
        {
            "query_id": f"q{id}",
            "query": f"count the {id} lines of a file",
            "candidates": [
                {"id": f"c{n}", "text": f"{n} lines of {id}", "label": float((id * n) % 2)} for n in range(5)
            ],
        }
        for id in range(40)
    ]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "features": {
            "name": "embedding",
            "source": {"name": "jsonl", "path": str(tmp_path / "groups.jsonl")},
            "encoder": {"model": str(tiny_bert), "max_length": 32},
            "path": str(tmp_path / "store"),
        },
        "ranker": {"name": "list_ranker", "optimizer": "sgd"},
        "datamodule": {"name": "grouped_features", "batch_size": 4},
        "trainer": {"max_epochs": 40, "accelerator": "cpu", "devices": 2, "strategy": "ddp"},
        "save_every": 0,
        "runs": str(tmp_path / "runs"),
    }
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    return tmp_path / "run.yaml"


@pytest.mark.slow
def test_the_processes_of_torchrun_are_one_run_that_can_be_killed_and_goes_on(
    groups_config: Path, tmp_path: Path
) -> None:
    killed = by_torchrun(tmp_path, "--config", str(groups_config))
    while not (found := [*(tmp_path / "runs" / "run").glob("*/last.ckpt")]):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    kill_all(str(groups_config))
    killed.communicate()
    [other] = {each.parent for each in found}
    assert not (other / "metrics.json").exists()
    resumed = by_torchrun(tmp_path, "--resume", str(other))
    out, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert out.count("bootstrap intervals") == 1, "one process prints the table"
    assert [*other.parent.iterdir()] == [other]

    folder = tmp_path / "whole"
    train_in_processes(folder, "--config", groups_config)
    assert (other / "run.trec").read_bytes() == (folder / "run.trec").read_bytes()
    weights = [torch.load(each / "best.ckpt", weights_only=True)["state_dict"] for each in (folder, other)]
    assert all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())


def by_srun(config: Path, number: int) -> Fork:
    """One of two processes, as srun starts them without --kill-on-bad-exit."""
    shared = {"JOB_ID": "77", "STEP_ID": "0", "JOB_NAME": "rank", "NTASKS": "2", "NTASKS_PER_NODE": "2", "NODEID": "0"}
    given = {**shared, "NODELIST": "localhost", "PROCID": str(number), "LOCALID": str(number)}
    environment = {name: value for name, value in os.environ.items() if name != "RANKERS_RUN_DIR"}
    environment |= {f"SLURM_{name}": value for name, value in given.items()}
    return Fork(REPOSITORY / "train.py", ["--config", config], folder=config.parent, environment=environment)


def test_a_process_that_waits_for_the_first_one_ends_when_that_fails(groups_config: Path, tmp_path: Path) -> None:
    with (tmp_path / "groups.jsonl").open("a") as file:
        file.write('{"query_id": "q", "cand')
    both = [by_srun(groups_config, number) for number in (1, 0)]
    try:
        errors = [each.communicate(timeout=300)[1] for each in both]
    finally:
        for each in both:
            each.kill()
    assert [each.returncode for each in both] == [1, 1], errors
    assert "store: the first process failed to build it: " in errors[0]
    assert all("groups.jsonl: one line cannot be read:" in error for error in errors)


def test_a_process_that_waits_for_the_first_one_ends_when_that_is_killed(groups_config: Path, tmp_path: Path) -> None:
    first = by_srun(groups_config, 0)
    while not list(tmp_path.glob("store.building-*")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.kill()
    first.communicate()
    second = by_srun(groups_config, 1)
    try:
        errors = second.communicate(timeout=300)[1]
    finally:
        second.kill()
    assert second.returncode == 1 and "store: the first process failed to build it: it was killed." in errors
    assert not list(tmp_path.glob("store.building-*"))


def test_a_process_that_is_building_or_is_on_another_machine_is_not_taken_for_a_killed_one(tmp_path: Path) -> None:
    sign = tmp_path / "store.building-0"
    assert not _is_abandoned(sign)
    with _sign(sign):
        assert not _is_abandoned(sign)
    assert not sign.exists()
    sign.write_text("another machine")
    assert not _is_abandoned(sign)
    sign.write_text(socket.gethostname())
    assert _is_abandoned(sign)


def test_several_processes_of_torchrun_with_a_trainer_of_one_are_refused(
    run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.processes.TorchElasticEnvironment.detect", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"trainer\.devices: torchrun has started 2 processes") as caught:
        train(load_config(run_config(), []), "run")
    assert "trainer.devices=2 trainer.strategy=ddp" in str(caught.value)
