import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import pytest
import torch
from ir_measures import RR, Qrel, R, nDCG
from run_configs import train_once, write_run_config

import train
from ranking.stores.files import lock_folder
from ranking.stores.group_store import GroupStore
from registry import load_config
from training.run import Run, _forget, _new_folder
from training.run import train as train_config


@pytest.fixture(autouse=True)
def no_inherited_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANKERS_RUN_DIR", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def run(run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Trains with the usual short config, changed as given."""

    def start(*overrides: str, **changes: Any) -> Run:
        monkeypatch.delenv("RANKERS_RUN_DIR", raising=False)
        return train_config(load_config(run_config(**changes), overrides), "run")

    return start


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that ranks all candidates of each query."""
    config = write_run_config(store, tmp_path_factory.mktemp("finished"))
    return train_once(config, "trainer.max_epochs=2", "datamodule.num_candidates=null")


def test_a_run_leaves_its_config_checkpoints_metrics_and_rankings(finished: Run) -> None:
    names = {path.name for path in finished.path.iterdir()}
    reports = {"metrics.json", "per_query.csv", "run.trec", "report.html", "report.json"}
    assert names == {"config.yaml", "best.ckpt", "last.ckpt", ".saved", "csv", *reports}
    assert finished.path.parent.parts[-2:] == ("runs", "run")
    metrics = json.loads((finished.path / "metrics.json").read_text())
    assert metrics["seed"] == 0 and metrics["steps"] == 4 and metrics["test"]["queries"] == 24
    assert set(metrics["test"]["scorers"]) == {"first", "random", "stored", "cosine", "list_ranker", "oracle"}
    again = load_config(finished.path / "config.yaml")
    assert again.ranker["feature_dim"] == 16 and again.trainer["max_epochs"] == 2


def test_the_run_file_gives_ir_measures_the_metrics_of_the_report(finished: Run, store: Path) -> None:
    groups = GroupStore.open(store)
    qrels = [
        Qrel(groups.query_id(group), groups.slot_id(slot), int(groups.label[slot]))
        for group in range(groups.num_groups)
        for slot in range(int(groups.offsets[group]), int(groups.offsets[group + 1]))
        if groups.split[group] == 2
    ]
    ranking = list(ir_measures.read_trec_run(str(finished.path / "run.trec")))
    theirs = ir_measures.calc_aggregate([RR, nDCG @ 10, R @ 5], qrels, ranking)
    ours = finished.metrics["test"]["scorers"]["list_ranker"]
    assert ours["mrr"]["mean"] == pytest.approx(theirs[RR], abs=1e-5)
    assert ours["ndcg@10"]["mean"] == pytest.approx(theirs[nDCG @ 10], abs=1e-5)
    assert ours["recall@5"]["mean"] == pytest.approx(theirs[R @ 5], abs=1e-5)


def test_per_query_values_average_to_the_report(finished: Run) -> None:
    with (finished.path / "per_query.csv").open() as file:
        rows = list(csv.DictReader(file))
    for scorer, metrics in finished.metrics["test"]["scorers"].items():
        for metric, interval in metrics.items():
            values = [float(row[metric]) for row in rows if row["scorer"] == scorer]
            assert len(values) == 24 and sum(values) / 24 == pytest.approx(interval["mean"], abs=1e-9)


def test_training_learns_what_the_features_hold(run: Callable[..., Run]) -> None:
    linear = {"name": "linear", "dim": None, "init": "identity"}
    ranker = {"name": "point_ranker", "projection": linear, "num_blocks": 0, "loss": "listwise_kl"}
    ranker |= {"temperature": 0.1}
    finished = run(
        "trainer.max_epochs=30", "trainer.check_val_every_n_epoch=10", "ranker.optimizer.lr=5e-2", ranker=ranker
    )
    assert finished.metrics["test"]["differences"]["cosine"]["mrr"]["low"] > 0, finished.metrics["test"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(run: Callable[..., Run]) -> None:
    first, again, other = run("seed=1"), run("seed=1"), run("seed=2")
    weights = [
        torch.load(path / "best.ckpt", weights_only=True)["state_dict"] for path in (first.path, again.path, other.path)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_a_loss_that_is_no_number_names_step_and_queries_and_keeps_the_last_good_state(
    run_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_config(ranker={"name": "point_ranker", "similarity": "dot", "loss": "mse"}, save_every=0)
    steep = ["ranker.optimizer={name: sgd, lr: 1e6, momentum: 0}", "ranker.temperature=1e-6", "trainer.max_epochs=3"]

    assert train.main(["--config", str(config), *steep]) == 1

    message = capsys.readouterr().err
    assert "train/loss: not finite at step 1; queries of that batch: q" in message
    assert "Traceback" not in message
    (folder,) = (tmp_path / "runs" / "run").iterdir()
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 1


def test_bf16_and_clipping_reach_the_trainer(run: Callable[..., Run]) -> None:
    finished = run("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.5")
    assert finished.metrics["steps"] == 2


def test_loggers_get_rates_norms_baselines_samples_and_histograms(run: Callable[..., Run]) -> None:
    finished = run("logger=[csv, wandb, tensorboard]", "trainer.log_every_n_steps=1")
    with (finished.path / "csv" / "version_0" / "metrics.csv").open() as file:
        columns = set(csv.DictReader(file).fieldnames or ())
    assert {"train/loss", "train/grad_norm", "lr", "val/mrr", "test/mrr", "baselines/cosine/mrr"} <= columns
    (log,) = (finished.path / "wandb").glob("offline-run-*/*.wandb")
    # W&B's own process writes it, and may be late on a busy machine.
    while b"val/samples" not in (written := log.read_bytes()):
        time.sleep(0.2)
    for name in (
        "train/grad_norm",
        "baselines/oracle/mrr",
        "val/samples",
        "val/scores/right",
        "val/scores/wrong",
        "max_epochs",
    ):
        assert name.encode() in written, name
    (samples,) = finished.path.glob("wandb/offline-run-*/files/media/table/val/*.json")
    table = json.loads(samples.read_text())
    assert table["columns"] == ["query", "rank", "score", "label", "candidate"]
    assert table["data"][0][0].startswith("query ") and table["data"][0][4].startswith("candidate ")
    assert list((finished.path / "tensorboard").glob("events.*"))


def test_a_gradient_norm_is_logged_with_the_loss_of_its_step(run: Callable[..., Run]) -> None:
    finished = run("trainer.max_epochs=2", "datamodule.batch_size=128", "trainer.log_every_n_steps=2")
    with (finished.path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [(row["step"], float(row["train/grad_norm"]) > 0) for row in rows] == [("1", True)]


def test_shared_negatives_train_a_ranker_that_scores_candidates_alone(run: Callable[..., Run]) -> None:
    for negatives in ("batch", "all"):
        finished = run(f"datamodule.negatives={negatives}", ranker={"name": "point_ranker", "loss": "listwise_kl"})
        assert finished.metrics["test"]["queries"] == 24


def test_a_run_of_few_steps_has_its_loss_logged_all_the_same(run: Callable[..., Run]) -> None:
    finished = run("datamodule.batch_size=128")
    with (finished.path / "csv" / "version_0" / "metrics.csv").open() as file:
        assert sum(bool(row["train/loss"]) for row in csv.DictReader(file)) == 1


def test_a_run_says_whether_its_time_was_over(run: Callable[..., Run]) -> None:
    stopped = run("trainer.max_time={seconds: 0}")
    assert stopped.metrics["out_of_time"] and stopped.metrics["steps"] == 0
    assert "trainer.max_time" in (stopped.path / "report.html").read_text(encoding="utf-8")
    assert "out_of_time" not in run("trainer.max_time={hours: 1}").metrics


def test_runs_that_start_in_one_second_have_folders_of_their_own(
    run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folders = load_config(run_config(), []), []
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as for one that looks before the other makes its folder
    for _ in range(3):
        monkeypatch.delenv("RANKERS_RUN_DIR", raising=False)
        folders.append(_new_folder(config, "run"))
    assert len(set(folders)) == 3 and all(folder.is_dir() for folder in folders)


def test_a_failed_start_leaves_the_folder_of_another_process_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1")
    lock = lock_folder(tmp_path)
    _forget(tmp_path)
    assert (tmp_path / "config.yaml").exists() and lock is not None
    os.close(lock)
    _forget(tmp_path)
    assert not tmp_path.exists()
