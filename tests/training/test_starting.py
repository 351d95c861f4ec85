"""Runs that start from a trained ranker."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from run_configs import train_once, write_run_config
from torch import nn

import train
from rankers.checkpoint import load_ranker, save_pretrained
from ranking.stores.group_store_writer import GroupStoreWriter
from registry.config import to_yaml
from training.starting import Pull


def latest(folder: Path, name: str) -> Path:
    return max((folder / "runs" / name).iterdir(), key=lambda path: path.name)


@pytest.fixture(scope="module")
def start(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run."""
    return train_once(write_run_config(store, tmp_path_factory.mktemp("runs"), "first.yaml")).path


@pytest.fixture
def personal(store: Path, start: Path, tmp_path: Path) -> Path:
    """A config that trains on from it, with none of the ranker's options repeated."""
    text = f"""
init_from: {start}
datamodule: {{name: grouped_features, path: {store}, batch_size: 32}}
trainer: {{max_epochs: 1, accelerator: cpu, enable_progress_bar: false}}
runs: {tmp_path / "runs"}
"""
    (tmp_path / "personal.yaml").write_text(text)
    return tmp_path / "personal.yaml"


def test_a_run_begins_with_the_weights_and_options_of_its_start(personal: Path, start: Path, tmp_path: Path) -> None:
    assert train.main(["--config", str(personal), "--check"]) == 0
    # At the validation before the first step, no loss is known.
    stopping = ["callbacks=[{name: early_stopping, monitor: train/loss}]", "trainer.val_check_interval=0.5"]
    assert train.main(["--config", str(personal), "ranker.optimizer.lr=1e-9", *stopping]) == 0
    run = latest(tmp_path, "personal")
    before, after = load_ranker(start), load_ranker(run)
    assert after.description()["ranker"]["temperature"] == before.description()["ranker"]["temperature"] == 0.2
    for name, weight in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], weight, rtol=0, atol=1e-6)
    first, found = (json.loads((folder / "metrics.json").read_text()) for folder in (start, run))
    changes = found["before_and_after"]["new"]["test"]
    for metric, value in first["test"]["scorers"]["list_ranker"].items():
        assert changes["before"][metric] == pytest.approx(value["mean"], abs=1e-6)
        assert changes["after"][metric] == pytest.approx(found["test"]["scorers"]["list_ranker"][metric]["mean"])


def test_the_old_data_show_what_was_forgotten(personal: Path, store: Path, tmp_path: Path) -> None:
    given = [f"datamodule.replay={{path: {store}, share: 0}}", "ranker.optimizer.lr=0.01"]
    assert train.main(["--config", str(personal), *given]) == 0
    found = json.loads((latest(tmp_path, "personal") / "metrics.json").read_text())["before_and_after"]
    assert found["old"] == found["new"]  # the same store
    for values in (found["new"]["val"], found["new"]["test"]):
        for metric, change in values["change"].items():
            assert change["mean"] == pytest.approx(values["after"][metric] - values["before"][metric], abs=1e-6)
            assert change["low"] <= change["mean"] <= change["high"]


def test_the_pull_adds_the_gradient_of_the_squared_distance() -> None:
    torch.manual_seed(0)
    start, model = nn.Linear(3, 2), nn.Linear(3, 2)
    inputs = torch.randn(5, 3)
    model(inputs).square().sum().backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    class Nothing:
        global_step, log_every_n_steps = 0, 10

    Pull(start, 0.3).on_before_optimizer_step(Nothing(), model, None)  # type: ignore[arg-type]
    model_double, start_double = model.double(), start.double()
    distance = sum(
        (one - other).square().sum()
        for one, other in zip(model_double.parameters(), start_double.parameters(), strict=True)
    )
    loss = model_double(inputs.double()).square().sum() + 0.3 / 2 * distance
    expected = torch.autograd.grad(loss, list(model_double.parameters()))
    for (name, weight), gradient in zip(model.named_parameters(), expected, strict=True):
        assert weight.grad is not None and not torch.equal(weight.grad.float(), found[name])
        torch.testing.assert_close(weight.grad.double(), gradient, rtol=1e-5, atol=1e-6)


def test_a_strong_pull_keeps_a_ranker_near_its_start(personal: Path, start: Path, tmp_path: Path) -> None:
    moved = []
    for pull in (0, 10):
        given = [f"init_from={{name: {start}, pull: {pull}}}", "ranker.optimizer={name: sgd, lr: 0.05}"]
        assert train.main(["--config", str(personal), *given, "trainer.max_epochs=3"]) == 0
        last = torch.load(latest(tmp_path, "personal") / "last.ckpt", weights_only=True)["state_dict"]
        first = load_ranker(start).state_dict()
        moved.append(sum(float((last[name] - weight).square().sum()) for name, weight in first.items()) ** 0.5)
    assert moved[1] < moved[0] / 2


def test_a_resumed_run_needs_its_start_no_longer(personal: Path, start: Path, tmp_path: Path) -> None:
    gone = shutil.copytree(start, tmp_path / "gone")
    given = [f"init_from={{name: {gone}, pull: 0.1}}", "ranker.schedule=constant"]
    assert train.main(["--config", str(personal), *given, "trainer.max_epochs=2"]) == 0
    whole = latest(tmp_path, "personal")
    assert train.main(["--config", str(personal), *given]) == 0
    parts = latest(tmp_path, "personal")
    assert parts != whole
    shutil.rmtree(gone)
    assert train.main(["--resume", str(parts), "trainer.max_epochs=2"]) == 0
    one, two = (torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, parts))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())
    found = [json.loads((run / "metrics.json").read_text())["before_and_after"] for run in (whole, parts)]
    assert found[0] == found[1]


def test_a_start_that_does_not_fit_is_refused_before_training(
    personal: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = tmp_path / "narrow"
    with GroupStoreWriter(narrow, feature_dim=4, depths=[None], dtype="float32", settings={}) as writer:
        writer.add_candidates(torch.randn(60, 1, 4), [f"c{row}" for row in range(60)])
        writer.add_groups(
            ids=[f"q{place}" for place in range(30)],
            texts=[f"query {place}" for place in range(30)],
            features=torch.randn(30, 1, 4),
            offsets=torch.arange(0, 61, 2),
            candidate=torch.arange(60),
            label=torch.tensor([1.0, 0.0] * 30),
            slot_ids=[f"c{row}" for row in range(60)],
            split=["train", "val", "test"] * 10,
        )
        writer.finish()
    other = save_pretrained(load_ranker(start), tmp_path / "other")
    for overrides, message in {
        ("ranker.name=point_ranker",): "ranker.name: is point_ranker, but",
        (f"datamodule.path={narrow}",): "feature_dim is 16 and 4",
        ("ranker.projection.dim=4",): "init_from: ",
        (f"init_from={tmp_path / 'nowhere'}",): "no ranker here",
        (f"init_from={{name: {other}, sha256: abc}}",): "init_from.sha256: is abc, and that of",
        (f"init_from={{name: {other}, pull: -1}}",): "init_from.pull",
    }.items():
        for more in ([], ["--check"]):
            assert train.main(["--config", str(personal), *overrides, *more]) == 1, overrides
            assert message in capsys.readouterr().err
    assert not (tmp_path / "runs" / "personal").exists()


def embedded(folder: Path, encoder: dict[str, Any], more: dict[str, Any]) -> Path:
    """A config that embeds forty groups before it trains."""
    words = ("open", "sort", "read")
    rows = [
        {
            "query": f"{words[place % 3]} {place}",
            "candidates": [f"{word} {place}" for word in words],
            "picked": place % 3,
        }
        for place in range(40)
    ]
    (folder / "picks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "features": {"name": "embedding", "source": {"name": "jsonl", "path": "picks.jsonl"}, "encoder": encoder},
        "datamodule": {"name": "grouped_features", "batch_size": 16},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
        **more,
    }
    (folder / "embedded.yaml").write_text(to_yaml(config))
    return folder / "embedded.yaml"


def test_other_vectors_than_those_of_start_or_old_store_are_refused_before_they_are_made(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = {"model": str(tiny_bert), "max_length": 16, "dtype": "float32"}
    assert train.main(["--config", str(embedded(tmp_path, encoder, {"ranker": "list_ranker"}))]) == 0
    run, old = latest(tmp_path, "embedded"), next((tmp_path / "data").iterdir())
    replay = {"datamodule": {"name": "grouped_features", "replay": {"path": str(old)}}}
    capsys.readouterr()
    for where, more in {
        "init_from": {"init_from": str(run)},
        "datamodule.replay.path": {"ranker": "list_ranker", **replay},
    }.items():
        config = embedded(tmp_path, {**encoder, "max_length": 32, "query_prompt": "find:"}, more)
        for words in ([], ["--check"]):
            assert train.main(["--config", str(config), *words]) == 1
            told = capsys.readouterr().err
            assert f"embedded.yaml: {where}: " in told
            assert "has vectors that were made with max_length 16, query_prompt ''; this config would" in told
            cure = told.rpartition("What to do:")[2].split()
            assert cure == ["features.encoder.max_length=16", "features.encoder.query_prompt="]
            assert [path.name for path in (tmp_path / "data").iterdir()] == [old.name]
        assert train.main(["--config", str(config), *cure]) == 0
        capsys.readouterr()
