import pytest
import torch

from registry import PROJECTIONS, ConfigError


@pytest.mark.parametrize(("node", "dim"), [
    ("linear", 64),
    ({"name": "linear", "dim": 8}, 8),
    ({"name": "linear", "dim": None}, 20),
    ("low_rank", 20),
])  # fmt: skip
def test_outputs_are_as_large_as_dim_says(node: str | dict, dim: int) -> None:
    projection = PROJECTIONS.build(node, feature_dim=20)
    assert projection.dim == dim
    assert projection(torch.randn(3, 20)).shape == (3, dim)
    assert projection(torch.randn(2, 5, 20)).shape == (2, 5, dim)
    assert all(name.endswith("weight") for name, _ in projection.named_parameters())


def test_identity_init_passes_features_on() -> None:
    features = torch.randn(3, 20)
    same = PROJECTIONS.build({"name": "linear", "dim": None, "init": "identity"}, feature_dim=20)
    assert torch.equal(same(features), features)
    shorter = PROJECTIONS.build({"name": "linear", "dim": 8, "init": "identity"}, feature_dim=20)
    assert torch.equal(shorter(features), features[:, :8])


def test_low_rank_starts_as_the_identity_and_learns_a_correction_of_its_rank() -> None:
    projection = PROJECTIONS.build({"name": "low_rank", "rank": 3}, feature_dim=20)
    features = torch.randn(50, 20)
    assert torch.equal(projection(features), features)
    projection(features).square().sum().backward()
    assert projection.up.weight.grad.any()
    torch.nn.init.normal_(projection.up.weight)
    assert torch.linalg.matrix_rank(projection(features) - features) == 3


@pytest.mark.parametrize(("node", "cure"), [
    ({"name": "linear", "dim": 0}, "dim: expected int from 1 to 65,536, got 0"),
    ({"name": "low_rank", "rank": -1}, "rank: expected int from 1 to 65,536, got -1"),
])  # fmt: skip
def test_sizes_below_1_are_refused(node: dict, cure: str) -> None:
    with pytest.raises(ConfigError, match=cure):
        PROJECTIONS.build(node, feature_dim=20)
