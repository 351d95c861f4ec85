import pytest
import torch
from torch import nn

from registry import OPTIMIZERS


def weights_after(node: str | dict, num_steps: int = 5) -> list[float]:
    """One weight that starts at 2 with the gradient of w^2 / 2."""
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = OPTIMIZERS.build(node, [weight])
    trace = []
    for _ in range(num_steps):
        weight.grad = weight.detach().clone()
        optimizer.step()
        trace.append(weight.item())
    return trace


def test_adamw_follows_its_formula() -> None:
    weight, mean, square, expected = 2.0, 0.0, 0.0, []
    for step in range(1, 6):
        gradient = weight
        weight -= 0.1 * 0.01 * weight
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        weight -= 0.1 * (mean / (1 - 0.8**step)) / ((square / (1 - 0.9**step)) ** 0.5 + 1e-6)
        expected.append(weight)
    node = {"name": "adamw", "lr": 0.1, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.01}
    assert weights_after(node) == pytest.approx(expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_its_formula(nesterov: bool) -> None:
    weight, velocity, expected = 2.0, 0.0, []
    for _ in range(5):
        gradient = weight + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight -= 0.1 * (gradient + 0.9 * velocity if nesterov else velocity)
        expected.append(weight)
    assert weights_after({"name": "sgd", "weight_decay": 0.01, "nesterov": nesterov}) == pytest.approx(expected)


def test_defaults_are_those_of_the_paper() -> None:
    weight = nn.Parameter(torch.zeros(1))
    adamw = OPTIMIZERS.build("adamw", [weight]).param_groups[0]
    assert (adamw["lr"], tuple(adamw["betas"]), adamw["weight_decay"]) == (1e-4, (0.9, 0.999), 1e-4)
    sgd = OPTIMIZERS.build("sgd", [weight]).param_groups[0]
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"]) == (0.1, 0.9, 1e-4)
