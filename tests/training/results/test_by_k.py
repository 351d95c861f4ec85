"""ByK: with more responses to choose from, each scorer does as drawing all subsets says it should."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from offline_runs import missing

from datamodules.grouped_features import GroupedFeatures
from datamodules.text_groups import TextGroups
from ranking.response_analysis import pass_at_k
from ranking.stores.group_store import GroupStore
from ranking.stores.group_store_writer import GroupStoreWriter
from registry import RANKERS, load_config
from training.results.by_k import ByK
from training.run import train

QUERIES, K, DIM = 60, 6, 8


def _store(folder: Path, *, known: bool) -> Path:
    """Six responses a query, some right, whose answers and log-probabilities are known or not."""
    draw = torch.Generator().manual_seed(0)
    label = (torch.rand(QUERIES * K, generator=draw) < 0.4).float()
    features = torch.randn(QUERIES * K, 1, DIM, generator=draw) + 2 * label.view(-1, 1, 1)
    answer = torch.where(label > 0, 1, torch.randint(0, 4, label.shape, generator=draw) + 1)
    answer[answer == 1] = torch.where(label[answer == 1] > 0, 1, 7)
    answer[3] = 0
    log_probability = torch.randn(QUERIES * K, generator=draw)
    writer = GroupStoreWriter(folder / "store", feature_dim=DIM, depths=[0.6], dtype="float32", settings={})
    with writer:
        writer.add_candidates(features, [f"response {place}" for place in range(QUERIES * K)])
        writer.add_groups(
            ids=[f"q{query}" for query in range(QUERIES)],
            texts=[f"question {query}" for query in range(QUERIES)],
            features=torch.randn(QUERIES, 1, DIM, generator=draw),
            offsets=torch.arange(0, QUERIES * K + 1, K),
            candidate=torch.arange(QUERIES * K),
            label=label,
            slot_ids=[str(place) for place in range(QUERIES * K)],
            split=["train", "val", "test"] * (QUERIES // 3),
            known={
                "answer": answer if known else torch.zeros_like(answer),
                "log_probability": log_probability if known else torch.full_like(log_probability, torch.nan),
                "num_tokens": torch.full((QUERIES * K,), 9),
            },
        )
        return writer.finish()


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _store(tmp_path_factory.mktemp("by_k"), known=True)


@pytest.mark.parametrize("known", [True, False])
def test_what_is_known_of_no_response_is_no_baseline(tmp_path: Path, known: bool) -> None:
    found = GroupedFeatures(str(_store(tmp_path, known=known)), num_candidates=None)
    assert ({"majority", "likeliest"} <= set(found.default_references)) is known


def test_the_curve_is_that_of_all_subsets(sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = tmp_path / "run.yaml"
    config.write_text(
        f"ranker: {{name: list_ranker, projection: {{name: linear, dim: 8}}, metrics: ['hit@1', mrr]}}\n"
        f"datamodule: {{name: grouped_features, path: {sampled}, num_candidates: null}}\n"
        f"trainer: {{max_epochs: 1, accelerator: cpu, enable_progress_bar: false}}\nlogger: [{{name: wandb}}]\n"
        f"runs: {tmp_path}\n"
    )
    run = train(load_config(config), "by_k")
    found = json.loads((run.path / "metrics.json").read_text())
    by_k, test = found["by_k"], found["test"]["scorers"]
    assert by_k["ks"] == [1, 3, 5, 6] and by_k["metric"] == "hit@1"
    means = {scorer: [mean["mean"] for mean in of] for scorer, of in by_k["scorers"].items()}
    for scorer, values in means.items():
        assert values[-1] == pytest.approx(test[scorer]["hit@1"]["mean"], abs=1e-6), scorer

    store = GroupStore.open(sampled)
    labels = store.label.view(QUERIES, K)[2::3]
    right = labels.sum(dim=1).long()
    share = float((right / K).mean())
    for place, k in enumerate(by_k["ks"]):
        expected = float(pass_at_k(torch.full_like(right, K), right, k).mean())
        assert means["oracle"][place] == pytest.approx(expected, abs=0.06)
        assert means["random"][place] == pytest.approx(share, abs=0.06)
        assert means["majority"][place] == pytest.approx(_majority(store, k), abs=0.06)
    assert means["majority"][-1] == pytest.approx(_majority(store, K), abs=1e-9)
    assert missing(run.path, "every training") == missing(run.path, "responses") == []
    for name in ("by_k.png", "responses.png"):
        assert imread(run.path / name)[..., :3].std() > 0.05


@pytest.mark.parametrize("name", ["point_ranker", "mlp_probe", "list_ranker"])
def test_vectors_that_are_scored_once_give_the_same_curves(
    sampled: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    torch.manual_seed(0)
    ranker = RANKERS.build({"name": name, "metrics": ["hit@1"]}, feature_dim=DIM)
    datamodule = GroupedFeatures(str(sampled), num_candidates=3)
    ranker.learn_from(datamodule)
    ranker.references = {each: RANKERS.build(each) for each in ("oracle", "random", "weighted_majority")}
    _check_scored_once(ranker, datamodule, monkeypatch, listwise=name == "list_ranker")


def test_a_reward_model_reads_each_response_once(
    sampled: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    options = {"backbone": {"model": str(tiny_llama), "dtype": "float32"}, "template": "plain", "max_length": 64}
    ranker = RANKERS.build({"name": "reward_model", "metrics": ["hit@1"], **options})
    ranker.configure_model()
    _check_scored_once(ranker, TextGroups(str(sampled), num_candidates=3), monkeypatch, listwise=False)


def _check_scored_once(ranker: Any, datamodule: Any, monkeypatch: pytest.MonkeyPatch, *, listwise: bool) -> None:
    num_scored, forward = [], ranker.forward
    monkeypatch.setattr(ranker, "forward", lambda batch: (num_scored.append(int(batch.mask.sum())), forward(batch))[1])
    found = ByK.of(ranker, datamodule, "hit@1")
    # Twenty test queries; ten draws for each K below all six.
    in_all_draws = 20 * (10 * (1 + 3 + 5) + K)
    assert sum(num_scored) == (in_all_draws if listwise else 20 * K)
    monkeypatch.setattr(type(ranker), "is_pointwise", False)
    drawn = ByK.of(ranker, datamodule, "hit@1")
    assert sum(num_scored) == in_all_draws + (in_all_draws if listwise else 20 * K)
    assert found.ks == drawn.ks and found.means == drawn.means


def _majority(store: GroupStore, k: int) -> float:
    """The chance that a vote among k of a query's responses is right, over all subsets; ties are drawn."""
    total = []
    for query in range(2, QUERIES, 3):
        slots = range(query * K, (query + 1) * K)
        for subset in itertools.combinations(slots, k):
            votes = Counter(int(store.answer[slot]) for slot in subset if int(store.answer[slot]))
            weight = {slot: votes[int(store.answer[slot])] for slot in subset}
            best = [slot for slot in subset if weight[slot] == max(weight.values())]
            total.append(sum(float(store.label[slot]) for slot in best) / len(best))
    return sum(total) / len(total)
