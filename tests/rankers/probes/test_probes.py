"""Probes are what scikit-learn's estimators are, in runs and checkpoints of this project."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import train
from datamodules.grouped_features import GroupedFeatures
from rankers.checkpoint import load_ranker
from rankers.probes.knn_probe import KnnProbe
from rankers.probes.linear_probe import LinearProbe
from rankers.probes.mlp_probe import MlpProbe
from rankers.probes.probe import Standardize
from ranking.batch import FeatureBatch

DIM, PLACES = 6, 4


class Data:
    """Training candidates of very different scales, whose first coordinates decide; the last one never changes."""

    def __init__(self, count: int = 400, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        vectors = torch.randn(count, DIM, generator=draw) * torch.tensor([1, 1, 300, 0.01, 5, 0]) + 3
        noise = torch.randn(count, generator=draw)
        self.vectors, self.labels = vectors, (vectors[:, 0] + 100 * vectors[:, 3] + noise > 306).float()

    def training_vectors(self, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.vectors[:most].split(150), self.labels[:most].split(150), strict=True)

    def batch(self) -> FeatureBatch:
        """Groups of the same size, so that the mean over groups is the mean over candidates."""
        index = torch.arange(len(self.vectors)).view(-1, PLACES)
        return FeatureBatch(
            labels=self.labels[index],
            mask=torch.ones_like(index, dtype=torch.bool),
            group=torch.arange(len(index)),
            slot=index,
            unique_queries=torch.randn(len(index), DIM, generator=torch.Generator().manual_seed(9)),
            unique_candidates=self.vectors,
            query_index=torch.arange(len(index)),
            candidate_index=index,
        )


def test_vectors_are_standardized_as_by_scikit_learn() -> None:
    data, scaler = Data(), Standardize(DIM)
    torch.testing.assert_close(scaler(data.vectors), data.vectors)
    scaler.fit(part for part, _ in data.training_vectors())
    expected = StandardScaler().fit(data.vectors.double().numpy()).transform(Data(seed=1).vectors.double().numpy())
    np.testing.assert_allclose(scaler(Data(seed=1).vectors).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("standardize", [True, False])
def test_the_linear_probe_is_trained_to_the_weights_of_scikit_learns_logistic_regression(standardize: bool) -> None:
    data = Data()
    if not standardize:
        data.vectors = (data.vectors - 3) / torch.tensor([1, 1, 300, 0.01, 5, 1])
        data.labels = (data.vectors[:, 0] + data.vectors[:, 3] > 0.1).float()
    probe, batch, strength = LinearProbe(DIM, standardize=standardize), data.batch(), 0.05
    probe.learn_from(data)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = probe.loss(*probe.training_scores(batch)) + strength / 2 * probe.linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(step)
    vectors = data.vectors.double().numpy()
    if standardize:
        vectors = StandardScaler().fit_transform(vectors)
    # scikit-learn minimises C * sum of losses + |w|^2 / 2.
    exact = LogisticRegression(C=1 / (strength * len(vectors)), tol=1e-10, max_iter=5000)
    exact.fit(vectors, data.labels.numpy())
    np.testing.assert_allclose(probe.linear.weight.detach().numpy(), exact.coef_, atol=2e-3)
    found = probe(batch).flatten().detach().numpy()
    np.testing.assert_allclose(found, exact.decision_function(vectors), atol=1e-2)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("most", [50_000, 130])
def test_the_knn_probe_gives_the_probabilities_of_scikit_learns_neighbours(metric: Any, most: int) -> None:
    data, asked = Data(), Data(count=80, seed=1)
    probe = KnnProbe(DIM, num_neighbors=7, metric=metric, max_vectors=most)
    probe.learn_from(data)
    scaler = StandardScaler().fit(data.vectors.double().numpy())
    exact = KNeighborsClassifier(n_neighbors=7, metric=metric, algorithm="brute")
    exact.fit(scaler.transform(data.vectors[:most].double().numpy()), data.labels[:most].numpy())
    expected = exact.predict_proba(scaler.transform(asked.vectors.double().numpy()))[:, 1]
    np.testing.assert_allclose(probe(asked.batch()).flatten().numpy(), expected, atol=1e-6)


def test_with_fewer_candidates_than_neighbours_all_count() -> None:
    data, probe = Data(), KnnProbe(DIM, num_neighbors=1000)
    probe.learn_from(data)
    torch.testing.assert_close(probe(data.batch()), data.labels.mean().expand(100, PLACES))


def test_distances_are_measured_in_parts_that_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data, probe = Data(), KnnProbe(DIM, num_neighbors=3)
    probe.learn_from(data)
    whole = probe(data.batch())
    monkeypatch.setattr("rankers.probes.knn_probe._DISTANCES", 1000)
    assert torch.equal(probe(data.batch()), whole)


def test_a_knn_probe_without_training_candidates_says_so() -> None:
    with pytest.raises(ValueError, match="no training candidates: train it by a run, load it, or call learn_from"):
        KnnProbe(DIM)(Data().batch())


@pytest.mark.parametrize("use_query", [False, True])
def test_the_mlp_probe_is_the_formula_of_its_docstring(use_query: bool) -> None:
    data = Data()
    probe, batch = MlpProbe(DIM, dim=5, use_query=use_query).eval(), data.batch()
    probe.learn_from(data)
    weights = {name: weight.double() for name, weight in probe.state_dict().items()}
    mean, deviation = weights["scaler.mean"], weights["scaler.deviation"]
    scores = probe(batch).detach()
    for row in range(0, 100, 9):
        for place in range(PLACES):
            candidate = (data.vectors[batch.candidate_index[row, place]].double() - mean) / deviation
            hidden = weights["candidate.weight"] @ candidate + weights["candidate.bias"]
            if use_query:
                hidden = hidden + weights["query.weight"] @ ((batch.query[row].double() - mean) / deviation)
            activated = hidden * (1 + torch.special.erf(hidden / 2**0.5)) / 2
            expected = float(weights["score.weight"][0] @ activated)
            assert float(scores[row, place]) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert probe._given["dim"] == 5 and probe.description()["ranker"]["loss"] is None
    assert MlpProbe.default_loss == "pairwise_logistic"


def test_a_datamodule_gives_each_training_candidate_once_with_its_label(store: Path) -> None:
    data = GroupedFeatures(str(store), num_candidates=5)
    vectors, labels = (torch.cat(part) for part in zip(*data.training_vectors(), strict=True))
    expected = [
        (*data.store.candidate_features(data.store.candidate[[slot]])[0].tolist(), float(data.store.label[slot]))
        for group in range(data.store.num_groups)
        if data.store.split[group] == 0
        for slot in range(int(data.store.offsets[group]), int(data.store.offsets[group + 1]))
    ]
    assert [(*row, label) for row, label in zip(vectors.tolist(), labels.tolist(), strict=True)] == expected
    (some, _) = next(iter(data.training_vectors(10)))
    assert torch.equal(some, vectors[[place * len(vectors) // 10 for place in range(10)]])


def test_neighbours_may_stand_beside_another_ranker(run_config: Callable[..., Path], tmp_path: Path) -> None:
    for name, ranker in (("alone", "ranker={name: knn_probe}"), ("beside", "references=[knn_probe]")):
        assert train.main(["--config", str(run_config(f"{name}.yaml")), ranker]) == 0
    means = {}
    for name in ("alone", "beside"):
        (run,) = (tmp_path / "runs" / name).iterdir()
        means[name] = json.loads((run / "metrics.json").read_text())["test"]["scorers"]["knn_probe"]
    assert means["alone"] == means["beside"]


@pytest.mark.parametrize("name", ["linear_probe", "mlp_probe", "knn_probe"])
def test_a_run_standardizes_by_its_training_split_and_its_checkpoint_scores_the_same(
    name: str, run_config: Callable[..., Path], store: Path, tmp_path: Path
) -> None:
    config = run_config()
    assert train.main(["--config", str(config), f"ranker={{name: {name}}}"]) == 0
    (run,) = (tmp_path / "runs" / "run").iterdir()
    loaded: Any = load_ranker(run)
    data = GroupedFeatures(str(store))
    vectors, labels = (torch.cat(part) for part in zip(*data.training_vectors(), strict=True))
    torch.testing.assert_close(loaded.scaler.mean, vectors.mean(dim=0), atol=1e-5, rtol=1e-4)
    if name == "knn_probe":
        assert torch.equal(loaded.labels, labels)
        assert train.main(["--resume", str(run), "references=[random]"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    batches = list(data.test_dataloader())
    hits, count = 0.0, 0
    for batch in batches:
        scores = loaded(batch).double().masked_fill(~batch.mask, -torch.inf)
        for row in range(len(scores)):
            best = scores[row] == scores[row].max()
            hits += float((batch.labels[row][best] > 0).double().mean())
            count += 1
    assert metrics["test"]["scorers"][name]["hit@1"]["mean"] == pytest.approx(hits / count, abs=1e-6)
