from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.comparison import Comparison
from benchmarks.speed.training.workload import TINY
from benchmarks.speed.vectors import kmeans


def test_clusters_are_as_good_as_those_of_the_peers(
    data: Path, complete: Callable[[Comparison, int], dict[str, Any]]
) -> None:
    results = complete(kmeans.measure(data, TINY, repeats=2, apart=False), 2)
    inertia = results["inertia"]
    assert inertia["ours, large"] == pytest.approx(inertia["faiss"], rel=0.05)
    assert inertia["ours, small"] == pytest.approx(inertia["scikit-learn"], rel=0.05)


def test_inertia_is_the_sum_of_squared_distances() -> None:
    points, centroids = torch.tensor([[0.0], [3.0], [10.0]]), torch.tensor([[1.0], [10.0]])
    assert kmeans.inertia_of(points, centroids, torch.tensor([0, 0, 1])) == 1 + 4


def test_worse_clusters_are_noticed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "_WITHIN", 0.5)
    with pytest.raises(AssertionError, match="scikit-learn"):
        kmeans.measure(data, TINY, repeats=1, apart=False)
