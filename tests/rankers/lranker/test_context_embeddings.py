"""ContextEmbeddings: its outputs come out on the scale of a backbone's input embeddings, or are left alone."""

import pytest
import torch

from rankers.lranker.context_embeddings import ContextEmbeddings
from rankers.lranker.prompt_reader import Injection
from ranking.pools.pool_batch import Contexts

NUM, K, D, DIM, SCALE = 12, 4, 16, 32, 0.3


def projection(injection: Injection = "placeholder", norm: str = "batch") -> ContextEmbeddings:
    torch.manual_seed(0)
    return ContextEmbeddings({"name": "mlp", "norm": norm}, injection, D, K, DIM, SCALE)


def contexts(spread: float, size: float = 1.0) -> Contexts:
    torch.manual_seed(1)
    centroids = size * (torch.randn(1, K, D) + spread * torch.randn(NUM, K, D))
    return Contexts(centroids, torch.ones(NUM, K, dtype=torch.bool))


def root_mean_square(values: torch.Tensor) -> float:
    return float(values.detach().square().mean().sqrt())


@pytest.mark.parametrize("injection", ["placeholder", "prefix"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("size", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("spread", [1e-2, 1.0])
def test_outputs_start_on_the_wanted_scale(injection: Injection, norm: str, size: float, spread: float) -> None:
    made, sets = projection(injection, norm), contexts(spread, size)
    made.calibrate(sets)
    assert made.calibrated
    assert root_mean_square(made.train()(sets)) == pytest.approx(SCALE, rel=0.01)


@pytest.mark.parametrize("spread", [0.0, 1e-7])
@pytest.mark.parametrize("size", [1e-2, 1.0, 100.0])
def test_sets_that_are_all_the_same_leave_scale_and_statistics_as_they_are_made(spread: float, size: float) -> None:
    made = projection()
    made.calibrate(contexts(spread, size))
    norm = made.projector.norm
    assert float(made.scale) == pytest.approx(SCALE) and made.calibrated
    assert isinstance(norm, torch.nn.BatchNorm1d)
    assert norm.running_mean is not None and norm.running_var is not None
    assert not norm.running_mean.any() and (norm.running_var == 1).all()
    made.train()(contexts(spread, size), contexts(spread, size))
    assert made.training and not norm.running_mean.any() and (norm.running_var == 1).all()


def test_statistics_follow_sets_that_differ_once_more() -> None:
    made, sets = projection().train(), contexts(1.0)
    made.calibrate(contexts(0.0))
    made.calibrate(sets)
    before = made.projector.norm.running_mean.clone()
    made(sets, sets)
    assert (made.projector.norm.running_mean != before).any()


def test_sets_that_are_all_the_same_are_no_matter_where_each_is_normed_alone() -> None:
    made, sets = projection(norm="layer"), contexts(0.0)
    made.calibrate(sets)
    assert root_mean_square(made(sets)) == pytest.approx(SCALE, rel=0.01)


def test_scale_is_set_once_and_not_by_one_set_alone() -> None:
    made, sets = projection(), contexts(1.0)
    made.calibrate(Contexts(*(each[:1] for each in sets)))
    assert not made.calibrated
    made.calibrate(sets)
    scale = float(made.scale)
    made.calibrate(contexts(1.0, 50.0))
    assert float(made.scale) == scale
