"""A reward model on two processes, its weights copied or sharded, ends with the weights of one process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_processes import by_torchrun, needs_shards, train_in_processes
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import train as script
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import ConfigError, load_config
from registry.config import to_yaml
from training.checking import check
from training.run import train


@pytest.fixture
def responses(store: Path, tmp_path: Path) -> Path:
    """The groups of the store as responses, which a run judges for each number of them."""
    given = GroupStore.open(store)
    with GroupStoreWriter(tmp_path / "responses", settings={}) as writer:
        writer.add_candidates(None, [given.candidate_text(row) for row in range(given.num_candidates)])
        writer.add_groups(
            ids=[given.query_id(group) for group in range(given.num_groups)],
            texts=[given.query_text(group) for group in range(given.num_groups)],
            features=None,
            offsets=given.offsets,
            candidate=given.candidate,
            label=given.label,
            slot_ids=[given.slot_id(slot) for slot in range(given.num_slots)],
            split=[{0: "train", 1: "val", 2: "test"}[code] for code in given.split.tolist()],
            known={"num_tokens": torch.ones(given.num_slots, dtype=torch.int32)},
        )
        return writer.finish()


def reward_config(store: Path, model: Path, file: Path, **ranker: Any) -> Path:
    """A run of a reward model with SGD, since AdamW makes steps of noise where a gradient is 0 in theory."""
    config = {
        "ranker": {
            "name": "reward_model",
            "backbone": {"model": str(model), "dtype": "float32"},
            "template": "plain",
            "max_length": 64,
            "optimizer": {"name": "sgd", "lr": 0.05},
            "schedule": "constant",
            **ranker,
        },
        "datamodule": {"name": "text_groups", "path": str(store), "batch_size": 8, "drop_unordered": False},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "gradient_clip_val": 1.0},
    }
    file.write_text(to_yaml(config))
    return file


def check_same(one: Path, two: Path) -> None:
    """Two runs have the same metrics and weights."""
    found = [json.loads((run / "metrics.json").read_text()) for run in (one, two)]
    for split in ("val", "test"):
        for scorer, metrics in found[0][split]["scorers"].items():
            for metric, interval in metrics.items():
                mean = found[1][split]["scorers"][scorer][metric]["mean"]
                assert mean == pytest.approx(interval["mean"], abs=1e-6)
    by_k = [each.get("by_k", {}).get("scorers", {}).get("reward_model", []) for each in found]
    assert [each["mean"] for each in by_k[0]] == pytest.approx([each["mean"] for each in by_k[1]], abs=1e-6)
    weights = [torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-5)


def train_alone(config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKERS_RUN_DIR", str(folder))
    train(load_config(config, []), config.stem)


@pytest.mark.slow
def test_a_reward_model_on_two_processes_ends_with_the_weights_of_one(
    store: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = reward_config(store, tiny_llama, tmp_path / "run.yaml", train="all")
    train_alone(config, tmp_path / "one", monkeypatch)
    train_in_processes(tmp_path / "two", "--config", config, "trainer.strategy=ddp")
    check_same(tmp_path / "one", tmp_path / "two")


@needs_shards
@pytest.mark.slow
def test_a_run_of_shards_that_torchrun_starts_and_is_resumed_ends_with_the_weights_of_one_process(
    store: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = reward_config(store, tiny_llama, tmp_path / "run.yaml", lora={"rank": 4, "alpha": 8})
    train_alone(config, tmp_path / "one", monkeypatch)
    options = ["trainer.strategy=fsdp2", "trainer.devices=2", "trainer.max_epochs=1", f"runs={tmp_path / 'runs'}"]
    begun = by_torchrun(tmp_path, "--config", str(config), *options)
    _, errors = begun.communicate()
    assert begun.returncode == 0, errors
    [folder] = (tmp_path / "runs" / "run").iterdir()
    train_in_processes(folder, "--resume", folder, "trainer.max_epochs=2")
    check_same(tmp_path / "one", folder)


@needs_shards
@pytest.mark.slow
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_processes_with_shards_that_need_different_numbers_of_passes_wait_for_each_other(
    responses: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gradient_checkpointing: bool
) -> None:
    options: dict[str, Any] = {"batch_tokens": 90, "gradient_checkpointing": gradient_checkpointing}
    config = reward_config(responses, tiny_llama, tmp_path / "run.yaml", lora={"rank": 4, "alpha": 8}, **options)
    train_alone(config, tmp_path / "one", monkeypatch)
    train_in_processes(tmp_path / "two", "--config", config, "trainer.strategy=fsdp2")
    check_same(tmp_path / "one", tmp_path / "two")


@needs_shards
@pytest.mark.slow
def test_a_ready_made_head_and_its_frozen_backbone_in_bfloat16_are_sharded(
    store: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    # Without dropout, which processes draw differently; the tokenizer of the tiny BERT does not know digits.
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    config = AutoConfig.for_model("bert", **sizes, vocab_size=len(tokenizer), max_position_embeddings=64, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options = {"head": "pretrained", "lora": {"rank": 4, "alpha": 8}}
    for dtype in ("float32", "bfloat16"):
        backbone = {"model": str(tmp_path / "model"), "dtype": dtype}
        file = reward_config(store, tiny_llama, tmp_path / f"{dtype}.yaml", **options, backbone=backbone)
        train_in_processes(tmp_path / dtype, "--config", file, "trainer.strategy=fsdp2")
    train_alone(tmp_path / "float32.yaml", tmp_path / "alone", monkeypatch)
    check_same(tmp_path / "alone", tmp_path / "float32")
    weights = torch.load(tmp_path / "bfloat16" / "last.ckpt", weights_only=True)["state_dict"]
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert any(name.startswith("head.") for name in weights) and any(".lora_" in name for name in weights)


@needs_shards
def test_rankers_that_cannot_be_sharded_are_refused(
    run_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--config", str(run_config()), "trainer.strategy=fsdp2", "trainer.devices=2"]) == 1
    assert "trainer.strategy: the weights of list_ranker cannot be sharded" in capsys.readouterr().err


@needs_shards
def test_a_pull_on_sharded_weights_is_refused(store: Path, tiny_llama: Path, tmp_path: Path) -> None:
    config = reward_config(store, tiny_llama, tmp_path / "run.yaml")
    sharded = load_config(config, ["init_from={name: start, pull: 1}", "trainer.strategy=fsdp2"])
    with pytest.raises(ConfigError, match=r"init_from.pull: does not work on weights that trainer.strategy=fsdp2"):
        check(sharded)


def test_a_torch_that_cannot_shard_on_a_processor_is_named(
    run_config: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "Stream", object)
    assert script.main(["--config", str(run_config()), "trainer.strategy=fsdp2", "trainer.accelerator=cpu"]) == 1
    assert f"trainer.strategy: PyTorch {torch.__version__} cannot shard" in capsys.readouterr().err
