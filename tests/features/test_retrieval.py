"""Top-k over blocks is what sorting all cosines gives."""

import numpy as np
import pytest
import torch

from features.retrieval import top_k


@pytest.mark.parametrize("cuts", [[100], [1, 98, 1], [50, 50], [33, 33, 34]])
@pytest.mark.parametrize("k", [1, 7, 100, 1000])
def test_the_nearest_are_those_of_brute_force(cuts: list[int], k: int) -> None:
    draw = torch.Generator().manual_seed(k)
    queries, pool = torch.randn(9, 6, generator=draw), torch.randn(100, 6, generator=draw)
    scores, rows = top_k(queries, pool.split(cuts), k)
    a, b = queries.double().numpy(), pool.double().numpy()
    cosines = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    expected = np.argsort(-cosines, axis=1)[:, :k]
    assert rows.tolist() == expected.tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, expected, axis=1), atol=1e-6)


def test_of_equal_candidates_the_first_leads() -> None:
    pool = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [3.0, 0.0]])
    assert top_k(torch.tensor([[1.0, 0.0]]), pool.split([2, 2, 1]), 4)[1].tolist() == [[1, 2, 4, 0]]
