"""Whole runs of recommenders, from a file of sequences to a report; stopped, resumed and shared by processes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_processes import needs_shards, train_here, train_in_processes
from test_resuming import KILLER, run_all

import train as script
from rankers.checkpoint import load_ranker
from ranking.stores.candidate_pool import CandidatePool
from registry.config import merge, to_yaml

NUM_ITEMS, LENGTH = 20, 8
NAMES = ["sasrec", "gru_prefix", "gru4rec", "bert4rec", "bpr", "fm"]
OPTIONS: dict[str, dict[str, Any]] = {
    "sasrec": {"dropout": 0.1},
    "gru4rec": {"num_samples": 8, "dropout": 0.0, "optimizer": {"name": "adagrad", "lr": 0.1}},
    "bert4rec": {"dropout": 0.0, "only_last": 0.5, "optimizer": {"name": "adamw", "lr": 3e-3}},
    "bpr": {"optimizer": {"name": "adamw", "lr": 0.05}},
    "fm": {"optimizer": {"name": "adamw", "lr": 0.05}},
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write the yaml of a short run on sequences in which each item has one successor."""
    lines = [
        " ".join([f"u{user}", *(str((user + 7 * place) % NUM_ITEMS) for place in range(LENGTH))]) for user in range(60)
    ]
    (tmp_path / "s.txt").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    usual = {
        "features": {
            "name": "candidate_pool",
            "encoder": None,
            "path": str(tmp_path / "pool"),
            "source": {"name": "s3rec", "path": str(tmp_path / "s.txt")},
        },
        "datamodule": {"name": "user_sequences", "batch_size": 8, "exclude_history": True},
        "trainer": {"max_epochs": 12, "accelerator": "cpu", "enable_progress_bar": False},
        "logger": ["csv"],
        "runs": str(tmp_path / "runs"),
    }

    def write(name: str, file: str = "run.yaml", **changes: Any) -> Path:
        ranker = {"name": name, "dim": 16, **OPTIONS.get(name, {})}
        ranker.setdefault("optimizer", {"name": "adamw", "lr": 0.01})
        (tmp_path / file).write_text(to_yaml(merge({"ranker": ranker, **usual}, changes)))
        return tmp_path / file

    return write


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_recommender_learns_from_yaml_alone_and_comes_back_from_disk(
    name: str, config: Callable[..., Path], tmp_path: Path
) -> None:
    file = str(config(name, trainer={"max_epochs": 60 if name == "bert4rec" else 12}))
    assert script.main(["--config", file, "--check"]) == 0
    assert script.main(["--config", file]) == 0
    (run,) = (tmp_path / "runs" / "run").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    found, popular = (metrics["scorers"][each]["mrr"]["mean"] for each in (name, "popularity"))
    assert metrics["queries"] == 60
    # The order of items is everything here. BPR does not see it, and BERT4Rec needs longer for it.
    assert found > {"bpr": popular, "bert4rec": 2 * popular}.get(name, 0.9)
    assert popular < 0.3
    ranker, pool = load_ranker(run), CandidatePool.open(tmp_path / "pool")
    fitted = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weight, fitted[key]) for key, weight in ranker.state_dict().items())
    seen = {line.split()[0]: set() for line in (run / "run.trec").read_text().splitlines()}
    for line in (run / "run.trec").read_text().splitlines():
        seen[line.split()[0]].add(line.split()[2])
    for query in (pool.queries.split == 2).nonzero().flatten().tolist()[:5]:
        start, end = pool.queries.history_offsets[query : query + 2].tolist()
        history = {pool.id(row) for row in pool.queries.history[start:end].tolist()}
        assert not history & seen[pool.queries.id(query)]


@pytest.mark.usefixtures("outside")
def test_the_recommender_of_the_documentation_is_one_file_outside_of_the_repository(
    config: Callable[..., Path], tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recommenders.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "last_item.py").write_text(code)
    ranker = {"name": "last_item", "dim": 16}
    file = config("sasrec", imports=["last_item"])
    (tmp_path / "run.yaml").write_text(to_yaml({**yaml.safe_load(file.read_text()), "ranker": ranker}))
    assert script.main(["--config", str(file), "--check"]) == 0
    assert script.main(["--config", str(file)]) == 0
    (run,) = (tmp_path / "runs" / "run").iterdir()
    found = json.loads((run / "metrics.json").read_text())["test"]["scorers"]
    assert found["last_item"]["mrr"]["mean"] > 0.9


def test_tiger_runs_from_yaml_on_a_pool_with_vectors(
    pool: CandidatePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {
        "ranker": {
            "name": "tiger",
            "num_codes": 16,
            "num_levels": 2,
            "dim": 16,
            "num_layers": 1,
            "num_heads": 2,
            "head_dim": 8,
            "hidden_dim": 16,
            "num_beams": 30,
        },
        "datamodule": {"name": "user_sequences", "path": str(pool.path), "batch_size": 8},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
        "logger": ["csv"],
        "runs": str(tmp_path / "runs"),
    }
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    for more in (["--check"], []):
        assert script.main(["--config", "run.yaml", *more]) == 0
    (run,) = (tmp_path / "runs" / "run").iterdir()
    found: dict[str, list[str]] = {}
    for line in (run / "run.trec").read_text().splitlines():
        found.setdefault(line.split()[0], []).append(line.split()[2])
    assert len(found) == int((pool.queries.split == 2).sum())
    assert all(len(ids) == len(set(ids)) == 30 for ids in found.values())
    codes = load_ranker(run).get_buffer("codes")
    assert codes.shape == (pool.num_candidates, 3) and len(codes.unique(dim=0)) == pool.num_candidates


def test_what_does_not_fit_is_refused_by_check(config: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = str(config("sasrec"))
    assert script.main(["--config", file, "ranker={name: sasrec, num_heads: 7}", "--check"]) == 1
    assert "7 heads cannot share a dim of 16 evenly" in capsys.readouterr().err
    assert script.main(["--config", file, "ranker={name: sasrec, loss: bce}", "--check"]) == 1
    assert "ranker.num_negatives: bce compares items with drawn ones" in capsys.readouterr().err
    assert script.main(["--config", file, "datamodule={name: partitioned_candidates}"]) == 1
    assert "datamodule.name: sasrec learns from the sequences of users" in capsys.readouterr().err
    assert script.main(["--config", file, "ranker={name: lranker}", "--check"]) == 1
    assert "ranker.feature_dim" in capsys.readouterr().err


def check_same(name: str, one: Path, other: Path, metrics: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for metric, interval in metrics[0]["test"]["scorers"][name].items():
        assert metrics[1]["test"]["scorers"][name][metric]["mean"] == pytest.approx(interval["mean"], abs=1e-6)
    weights = [torch.load(each / "last.ckpt", weights_only=True)["state_dict"] for each in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, rtol=1e-4, atol=1e-6)


# SGD, since AdamW makes steps of noise where a gradient is 0 in theory; without dropout, which each process draws.
ALIKE = {"dropout": 0.0, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.5}}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_two_processes_give_the_weights_and_metrics_of_one(
    name: str, config: Callable[..., Path], tmp_path: Path
) -> None:
    file = config(name, ranker=ALIKE, trainer={"max_epochs": 3})
    one = train_here(file, tmp_path / "one")
    two = train_in_processes(tmp_path / "two", "--config", file, "trainer.strategy=ddp")
    check_same(name, tmp_path / "one", tmp_path / "two", (one, two))


@needs_shards
@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("sasrec", 4), ("gru4rec", 2)])
def test_a_resumed_run_of_processes_with_shards_of_the_item_table_ends_as_that_of_one_process(
    name: str, count: int, config: Callable[..., Path], tmp_path: Path
) -> None:
    file = config(name, ranker=ALIKE, trainer={"max_epochs": 2, "gradient_clip_val": 1.0})
    one, folder = train_here(file, tmp_path / "one"), tmp_path / "several"
    train_in_processes(folder, "--config", file, "trainer.strategy=fsdp2", "trainer.max_epochs=1", count=count)
    several = train_in_processes(folder, "--resume", folder, "trainer.max_epochs=2", count=count)
    check_same(name, tmp_path / "one", folder, (one, several))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_a_run_killed_in_mid_epoch_ends_with_the_same_weights(
    name: str, config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    stop = {"name": "stop_at", "hook": "on_train_batch_end", "step": 11, "signal_number": 15}
    stop["marker"] = str(tmp_path / "marker")
    changes: dict[str, Any] = {"trainer": {"max_epochs": 3}}
    whole = config(name, "whole.yaml", **changes)
    killed = config(name, "killed.yaml", imports=["killer"], callbacks=[stop], **changes)
    statuses, output = run_all(
        tmp_path,
        [
            [str(tmp_path / "a"), "--config", str(whole)],
            [str(tmp_path / "b"), "--config", str(killed)],
            [str(tmp_path / "b"), "--resume", str(tmp_path / "b")],
        ],
    )
    assert statuses[0] == 0 and statuses[1] != 0 and statuses[2] == 0, output
    weights = [torch.load(tmp_path / each / "last.ckpt", weights_only=True)["state_dict"] for each in "ab"]
    assert all(torch.equal(weights[1][key], weight) for key, weight in weights[0].items())
