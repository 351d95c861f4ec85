"""Mixing: mixed vectors give mixed scores, and the share follows the one standard error rule."""

import math
import statistics

import pytest
import torch

from rankers.judging.share_curve import ShareCurve, choose_share
from rankers.lranker.mixing import Mixing, mix


def test_the_inner_product_of_a_mixed_vector_is_the_mixed_score() -> None:
    draw = torch.Generator().manual_seed(0)
    ours, theirs, candidates = (torch.randn(*shape, generator=draw) for shape in ((3, 2, 8), (3, 8), (5, 8)))
    mixed = mix(ours, theirs, 0.3)
    for query in range(3):
        for place in range(2):
            vector, start = ours[query, place], theirs[query]
            for row in candidates:
                cosine = float(start @ row / start.norm())
                expected = 0.7 * float(vector @ row) + 0.3 * float(vector.norm()) * cosine
                assert float(mixed[query, place] @ row) == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(mix(ours, theirs, 0.0), ours)


def chosen_by_hand(values: list[list[float]], errors: float) -> int:
    means = [statistics.fmean(row) for row in values]
    best = values[means.index(max(means))]
    for place in reversed(range(len(values))):
        gaps = [top - own for top, own in zip(best, values[place], strict=True)]
        if statistics.fmean(gaps) <= errors * statistics.stdev(gaps) / math.sqrt(len(gaps)) + 1e-12:
            return place
    raise AssertionError


@pytest.mark.parametrize("errors", [0.0, 1.0, 2.0])
def test_the_share_is_the_largest_within_so_many_standard_errors(errors: float) -> None:
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        values = torch.rand(5, 12, generator=draw).double()
        assert choose_share(values, errors) == chosen_by_hand(values.tolist(), errors)


def test_one_query_tells_nothing_so_that_the_encoder_stays() -> None:
    assert choose_share(torch.tensor([[1.0], [0.5], [0.2]]), 1.0) == 2


def test_the_ranker_alone_is_always_tried() -> None:
    assert Mixing(shares=[1.0, 0.5]).tried == [0.0, 0.5, 1.0]
    curve = ShareCurve("mrr", [0.0, 1.0], torch.tensor([[0.5, 0.75], [0.5, 0.25]]), 0.0)
    assert curve.plain() == {
        "share": 0.0,
        "metric": "mrr",
        "shares": [0.0, 1.0],
        "values": [0.625, 0.375],
        "queries": 2,
    }
