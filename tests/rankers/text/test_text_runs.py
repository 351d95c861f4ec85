"""Runs of rankers of texts: trained on groups, and reranking the best of a pool."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_configs import train_once
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import train
from datamodules.grouped_features import GroupedFeatures
from datamodules.text_groups import TextGroups
from rankers.checkpoint import load_ranker
from rankers.text.cross_encoder import CrossEncoder
from ranking.stores.candidate_pool import CandidatePool
from ranking.stores.group_store import GroupStore


def write(folder: Path, text: str) -> Path:
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def run_of(config: Path, *overrides: str) -> Path:
    assert train.main(["--config", str(config), "--check", *overrides]) == 0
    assert train.main(["--config", str(config), *overrides]) == 0
    return max((config.parent / "runs" / "mine").iterdir(), key=lambda path: path.name)


def write_reward_config(store: Path, tiny_llama: Path, folder: Path) -> Path:
    """The yaml of a short run of a reward model on the texts of the small store."""
    return write(
        folder,
        f"""
ranker:
  name: reward_model
  backbone: {{model: {tiny_llama}, dtype: float32}}
  template: plain
  max_length: 64
  lora: {{rank: 4, alpha: 8}}
  loss: {{name: pairwise_logistic, margin: 0.5, centering: 0.01}}
  optimizer: {{name: adamw, lr: 0.01}}
  schedule: constant
datamodule: {{name: text_groups, path: {store}, num_candidates: 4, batch_size: 8}}
trainer: {{max_epochs: 2, accelerator: cpu, gradient_clip_val: 1.0, enable_progress_bar: false}}
logger: csv
runs: {folder / "runs"}
""",
    )


@pytest.fixture
def reward_config(store: Path, tiny_llama: Path, tmp_path: Path) -> Path:
    return write_reward_config(store, tiny_llama, tmp_path)


@pytest.fixture(scope="module")
def whole(store: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a run."""
    config = write_reward_config(store, tiny_llama, tmp_path_factory.mktemp("runs"))
    assert train.main(["--config", str(config), "--check"]) == 0
    return train_once(config).path


def test_a_reward_model_is_trained_on_groups_and_scores_as_its_run_file_says(whole: Path, store: Path) -> None:
    run = whole
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] > 0 and metrics["num_parameters"] == sum(
        weight.numel() for weight in torch.load(run / "best.ckpt", weights_only=True)["state_dict"].values()
    )
    opened, ranker = GroupStore.open(store), load_ranker(run)
    groups = {opened.query_id(group): group for group in range(opened.num_groups)}
    checked = 0
    for line in (run / "run.trec").read_text().splitlines()[:40]:
        query, _, candidate, _, score, _ = line.split()
        group = groups[query]
        slots = range(int(opened.offsets[group]), int(opened.offsets[group + 1]))
        slot = next(slot for slot in slots if opened.slot_id(slot) == candidate)
        text = opened.candidate_text(int(opened.candidate[slot]))
        with torch.no_grad():
            found = ranker.score([opened.query_text(group)], [[text]])  # type: ignore[operator]
        assert float(score) == pytest.approx(found.item(), abs=1e-3)
        checked += 1
    assert checked == 40


def test_a_precision_that_would_round_scores_is_refused(
    reward_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--config", str(reward_config), "trainer.precision=bf16-true"]) == 1
    error = capsys.readouterr().err
    assert (
        "trainer.precision: would round the scores of reward_model, so that many are equal" in error
        and "bf16-mixed" in error
    )


def test_a_stopped_run_of_a_reward_model_goes_on_to_the_same_weights(reward_config: Path, whole: Path) -> None:
    run = train_once(reward_config, "trainer.max_epochs=1").path
    assert train.main(["--resume", str(run), "trainer.max_epochs=2"]) == 0
    again = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    expected = torch.load(whole / "last.ckpt", weights_only=True)["state_dict"]
    assert expected.keys() == again.keys()
    assert all(torch.equal(weight, again[name]) for name, weight in expected.items())


def test_reward_models_and_rankers_of_features_are_trained_and_judged_on_the_same_groups(store: Path) -> None:
    options: dict[str, Any] = {"num_candidates": 4, "batch_size": 8, "seed": 3, "groups_per_query": 2}
    texts, features = TextGroups(str(store), **options), GroupedFeatures(str(store), **options)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        both = [getattr(data, name)() for data in (texts, features)]
        for epoch in range(2 if name == "train_dataloader" else 1):
            slots = []
            for loader in both:
                loader.sampler.set_epoch(epoch)
                slots.append(torch.cat([batch.slot.flatten() for batch in loader]))
            assert torch.equal(*slots) and len(slots[0])


@pytest.mark.parametrize("first", ["encoder", "bm25"])
def test_a_ready_made_cross_encoder_reranks_the_best_of_a_pool(
    pool: CandidatePool, bert_classifier: Path, tmp_path: Path, first: str
) -> None:
    run = run_of(
        write(
            tmp_path,
            f"""
ranker:
  name: cross_encoder
  backbone: {{model: {bert_classifier}, dtype: float32}}
  head: pretrained
  train: nothing
  max_length: 64
  rerank: {{first: {first}, top: 20}}
  metrics: [mrr, ndcg@10, recall@20]
datamodule: {{name: partitioned_candidates, path: {pool.path}, num_partitions: 2}}
trainer: {{accelerator: cpu, enable_progress_bar: false}}
logger: csv
runs: {tmp_path / "runs"}
""",
        )
    )
    metrics = json.loads((run / "metrics.json").read_text())
    scorers = metrics["test"]["scorers"]
    assert list(scorers) == ["bm25", "encoder", "cross_encoder"] and metrics["num_parameters"] == 0
    assert scorers["cross_encoder"]["recall@20"] == scorers[first]["recall@20"]
    assert scorers["cross_encoder"]["mrr"] != scorers[first]["mrr"]
    plain = AutoModelForSequenceClassification.from_pretrained(bert_classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(bert_classifier)
    numbers = {pool.id(row): row for row in range(pool.num_candidates)}
    queries = {pool.queries.id(query): pool.queries.text(query) for query in range(pool.queries.num_queries)}
    lines = [line.split() for line in (run / "run.trec").read_text().splitlines()]
    for query in list(dict.fromkeys(line[0] for line in lines))[:3]:
        ranked = [(line[2], float(line[4])) for line in lines if line[0] == query]
        assert len({candidate for candidate, _ in ranked}) == pool.num_candidates
        scores = [score for _, score in ranked]
        assert scores == sorted(scores, reverse=True)
        for candidate, score in ranked[:20]:
            with torch.no_grad():
                given = tokenizer(queries[query], pool.text(numbers[candidate]), return_tensors="pt")
                assert score == pytest.approx(plain(**given).logits.item(), abs=1e-3)
        if first == "encoder":
            number = next(n for n in range(pool.queries.num_queries) if pool.queries.id(n) == query)
            vectors = pool.features(torch.arange(pool.num_candidates)).float()
            best = (vectors @ pool.queries.features(torch.tensor([number])).float()[0]).topk(20).indices.tolist()
            assert {numbers[candidate] for candidate, _ in ranked[:20]} == set(best)


def test_scores_of_nan_have_no_order_in_a_pool(
    pool: CandidatePool, bert_classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(ranker: CrossEncoder, queries: list[str], candidates: list[list[str]]) -> torch.Tensor:
        return torch.full((sum(map(len, candidates)),), torch.nan)

    monkeypatch.setattr(CrossEncoder, "score", score)
    config = write(
        tmp_path,
        f"""
ranker:
  name: cross_encoder
  backbone: {{model: {bert_classifier}, dtype: float32}}
  head: pretrained
  train: nothing
  max_length: 64
  rerank: {{first: encoder, top: 5}}
datamodule: {{name: partitioned_candidates, path: {pool.path}, num_partitions: 2}}
trainer: {{accelerator: cpu, enable_progress_bar: false}}
runs: {tmp_path / "runs"}
""",
    )
    with pytest.raises(ValueError, match=r"cross_encoder scored candidates of queries \[.*\] as nan"):
        train.main(["--config", str(config)])


def test_a_cross_encoder_is_trained_on_mined_negatives_of_a_pool(
    pool: CandidatePool, typed_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(
        tmp_path,
        f"""
ranker:
  name: cross_encoder
  backbone: {{model: {typed_bert}, dtype: float32}}
  train: all
  max_length: 64
  rerank: {{first: encoder, top: 10}}
  optimizer: {{name: adamw, lr: 0.001}}
  metrics: [mrr, ndcg@10]
datamodule:
  {{name: partitioned_candidates, path: {pool.path}, num_partitions: 2, negatives: mined, num_negatives: 7}}
trainer: {{max_epochs: 1, accelerator: cpu, enable_progress_bar: false}}
logger: csv
runs: {tmp_path / "runs"}
""",
    )
    run = run_of(config)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 2 and (run / "best.ckpt").is_file()
    capsys.readouterr()
    assert train.main(["--config", str(config), "ranker.rerank.first=popularity"]) == 0
    assert train.main(["--config", str(config), "ranker.rerank.first=list_ranker"]) == 1
    assert "ranker.rerank.first: list_ranker does not rank a pool without training" in capsys.readouterr().err
