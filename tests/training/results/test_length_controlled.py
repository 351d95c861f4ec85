"""A run with `length_control` reports win rates as if first choices were as long as the reference's outputs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule

from ranking.length_control import Comparisons, control_length
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import ConfigError, load_config
from training.callbacks import LengthControl
from training.run import train

HEADER = "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline"


@pytest.fixture
def references(store: Path, tmp_path: Path) -> Path:
    """A folder with an output for every query of the store but the last ten."""
    opened = GroupStore.open(store)
    rows = [
        {"instruction": opened.query_text(group), "output": "o" * (2 + 7 * group % 31)}
        for group in range(opened.num_groups - 10)
    ]
    folder = tmp_path / "references"
    folder.mkdir()
    (folder / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(rows))
    return folder


def controlled(
    run_config: Callable[..., Path], path: Path, **changes: Any
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The results of length control, all those of the run, and the run's folder."""
    changes = {"ranker": {"metrics": ["win_rate"]}, "monitor": "val/win_rate", **changes}
    callback = {"name": "length_control", "path": str(path), "num_resamples": 20}
    folder = train(load_config(run_config(callbacks=[callback], **changes), []), "run").path
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics.get("length_control", {}), metrics, folder


def test_every_scorer_of_the_same_candidates_has_a_length_controlled_win_rate(
    run_config: Callable[..., Path], store: Path, references: Path
) -> None:
    found, _, folder = controlled(run_config, references, datamodule={"num_candidates": None})
    opened = GroupStore.open(store)
    group_of = {opened.query_id(group): group for group in range(opened.num_groups)}
    lengths = [len(row["output"]) for row in json.loads((references / "alpaca_eval_gpt4_baseline.json").read_text())]
    first: list[tuple[int, float, int]] = []
    for line in (folder / "run.trec").read_text().splitlines():
        query_id, _, candidate, rank, *_ = line.split()
        group = group_of[query_id]
        slots = range(int(opened.offsets[group]), int(opened.offsets[group + 1]))
        slot = next(slot for slot in slots if opened.slot_id(slot) == candidate)
        if rank == "1" and group < len(lengths):
            text = opened.candidate_text(int(opened.candidate[slot]))
            first.append((group, float(opened.label[slot]), lengths[group] - len(text)))
    assert (found["queries"], found["left_out"]) == (len(first), 24 - len(first)) == (22, 2)
    query, preference, difference = (np.array(column) for column in zip(*first, strict=True))
    expected = control_length(Comparisons(query, preference, difference.astype(float)))
    ours = found["scorers"]["list_ranker"]
    assert ours["win_rate"] == pytest.approx(preference.mean())
    assert ours["controlled"]["mean"] == pytest.approx(expected.win_rate, abs=1e-6)
    assert ours["controlled"]["low"] <= ours["controlled"]["mean"] <= ours["controlled"]["high"]
    assert ours["difference"] is None and ours["fit"]["psi"] is None
    for name, scorer in found["scorers"].items():
        if name != "list_ranker":
            gain = ours["controlled"]["mean"] - scorer["controlled"]["mean"]
            assert scorer["difference"]["mean"] == pytest.approx(gain)
    assert set(found["scorers"]) == {"first", "random", "stored", "cosine", "list_ranker", "oracle"}


def test_ties_and_several_draws_share_the_weight_of_their_query(
    run_config: Callable[..., Path], store: Path, references: Path
) -> None:
    opened = GroupStore.open(store)
    rows = [
        {"instruction": opened.query_text(group), "output": "o" * (group % 9)} for group in range(opened.num_groups)
    ]
    (references / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(rows))
    found, metrics, _ = controlled(run_config, references, datamodule={"num_candidates": 4, "eval_draws": 3})
    assert found["queries"] == 24
    for name, scorer in found["scorers"].items():
        reported = metrics["test"]["scorers"][name]["win_rate"]["mean"]
        assert scorer["win_rate"] == pytest.approx(reported, abs=1e-6), name


def test_with_published_comparisons_the_model_has_the_difficulty_of_each_query(
    run_config: Callable[..., Path], references: Path
) -> None:
    rows = [
        f"{told},{place % 5 / 4},{place},{place % 7 - 3},{place % 11 - 5},False"
        for told in "ab"
        for place in range(110)
    ]
    (references / "df_gamed.csv").write_text("\n".join([HEADER, *rows]))
    found, _, folder = controlled(run_config, references)
    assert all(scorer["fit"]["psi"] is not None for scorer in found["scorers"].values())
    [logged] = (folder / "csv").rglob("metrics.csv")
    assert "test/lc_win_rate" in logged.read_text().splitlines()[0]


def test_data_that_cannot_be_compared_is_refused_before_training(
    run_config: Callable[..., Path], references: Path, tmp_path: Path
) -> None:
    rows = json.loads((references / "alpaca_eval_gpt4_baseline.json").read_text())
    (references / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(rows[:4]))
    with pytest.raises(ConfigError, match="has the reference outputs of 4 of the 120 queries"):
        controlled(run_config, references)
    graded = str(graded_store(tmp_path / "graded"))
    with pytest.raises(ConfigError, match=r"needs preferences in \[0, 1\] as labels, these go from 0 to 3"):
        controlled(run_config, references, datamodule={"path": graded})
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_queries_over_a_pool_are_refused() -> None:
    trainer: Any = SimpleNamespace(datamodule=object())
    with pytest.raises(ConfigError, match="queries over a pool have no preferences"):
        LengthControl().setup(trainer, LightningModule(), "fit")


def test_with_too_few_test_queries_a_run_ends_without_it(
    run_config: Callable[..., Path], references: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = references / "alpaca_eval_gpt4_baseline.json"
    file.write_text(json.dumps(json.loads(file.read_text())[:12]))
    assert "length_control" not in controlled(run_config, references)[1]
    line = "length control is left out: 2 of the 24 test queries have a reference output"
    assert line in capsys.readouterr().err


def test_a_win_rate_of_grades_is_an_error_that_names_the_metrics(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = run_config(
        datamodule={"path": str(graded_store(tmp_path / "graded"))},
        ranker={"metrics": ["win_rate"]},
        monitor="val/win_rate",
    )
    with pytest.raises(ConfigError, match=r"ranker.metrics: win_rate needs preferences in \[0, 1\] as labels"):
        train(load_config(config, []), "run")


def graded_store(path: Path) -> Path:
    """Groups with grades from 0 to 3."""
    with GroupStoreWriter(path, feature_dim=4, depths=[None], dtype="float32", settings={}) as writer:
        writer.add_candidates(torch.eye(4).unsqueeze(1), list("abcd"))
        writer.add_groups(
            ids=list("123456"),
            texts=[f"query {place}" for place in range(6)],
            features=torch.ones(6, 1, 4),
            offsets=torch.arange(0, 25, 4),
            candidate=torch.arange(4).repeat(6),
            label=torch.arange(4.0).repeat(6),
            slot_ids=list("abcd") * 6,
            split=["train", "val", "test"] * 2,
        )
        return writer.finish()
