"""Centroids become input embeddings as the formulas say, on the scale of the backbone's own."""

import pytest
import torch
from torch import Tensor, nn

from rankers.lranker.context_embeddings import ContextEmbeddings
from rankers.lranker.projectors import Linear, Mlp
from ranking.pools.pool_batch import Contexts
from registry import PROJECTORS, ConfigError, Node

DIM, CENTROIDS, WIDTH, SCALE = 6, 4, 10, 0.03
NODES: list[Node] = [*PROJECTORS.names(), {"name": "mlp", "norm": "layer"}]
EACH = pytest.mark.parametrize("node", NODES, ids=str)
BOTH = pytest.mark.parametrize("injection", ["placeholder", "prefix"])


def make_contexts(count: int, seed: int = 0, scale: float = 1.0) -> Contexts:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(CENTROIDS) < torch.randint(1, CENTROIDS + 1, (count, 1), generator=draw)
    return Contexts(scale * torch.randn(count, CENTROIDS, DIM, generator=draw) * mask.unsqueeze(2), mask)


def project(node: Node, injection: str) -> ContextEmbeddings:
    torch.manual_seed(0)
    return ContextEmbeddings(node, injection, DIM, CENTROIDS, WIDTH, SCALE)  # type: ignore[arg-type]


def double(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def by_hand(layer: nn.Linear, centroids: Tensor) -> Tensor:
    """W [g_1; ...; g_K] + b, row by row."""
    rows = [torch.cat(list(double(row))) for row in centroids]
    return torch.stack([double(layer.weight) @ row + double(layer.bias) for row in rows])


def test_mlp_is_linear_batch_norm_and_relu() -> None:
    torch.manual_seed(0)
    mlp, centroids = Mlp(DIM, CENTROIDS, WIDTH), make_contexts(7).centroids
    hidden = by_hand(mlp.linear, centroids)
    mean, variance = hidden.mean(dim=0), hidden.var(dim=0, correction=0)
    expected = ((hidden - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(double(mlp(centroids)), expected, rtol=1e-4, atol=1e-5)
    running = 0.1 * mean, 0.9 + 0.1 * hidden.var(dim=0)
    expected = ((hidden - running[0]) / (running[1] + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(double(mlp.eval()(centroids)), expected, rtol=1e-4, atol=1e-5)


def test_mlp_with_a_layer_norm_looks_at_each_row_alone() -> None:
    torch.manual_seed(0)
    mlp, centroids = Mlp(DIM, CENTROIDS, WIDTH, norm="layer"), make_contexts(7).centroids
    hidden = by_hand(mlp.linear, centroids)
    spread = (hidden.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = ((hidden - hidden.mean(dim=1, keepdim=True)) / spread).clamp(min=0)
    torch.testing.assert_close(double(mlp(centroids)), expected, rtol=1e-4, atol=1e-5)


def test_linear_is_a_matrix_and_a_bias() -> None:
    torch.manual_seed(0)
    linear, centroids = Linear(DIM, CENTROIDS, WIDTH), make_contexts(7).centroids
    torch.testing.assert_close(double(linear(centroids)), by_hand(linear.linear, centroids), rtol=1e-5, atol=1e-6)


def test_a_training_batch_of_one_is_normed_by_the_running_statistics() -> None:
    mlp, centroids = Mlp(DIM, CENTROIDS, WIDTH), make_contexts(7).centroids
    for _ in range(3):
        mlp(centroids)
    running = mlp.norm.running_mean.clone()  # type: ignore[union-attr]
    alone = mlp(centroids[:1])
    assert torch.equal(mlp.norm.running_mean, running)  # type: ignore[arg-type]
    assert torch.equal(mlp.eval()(centroids[:1]), alone) and alone.any()
    mlp.train()(centroids[:1]).sum().backward()
    assert mlp.linear.weight.grad is not None


@EACH
@BOTH
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_outputs_start_on_the_scale_of_the_backbone_whatever_that_of_the_features(
    node: Node, injection: str, scale: float
) -> None:
    projection, contexts = project(node, injection), make_contexts(20, scale=scale)
    projection.calibrate(contexts)
    for mode in (True, False):
        outputs = projection.train(mode)(contexts)
        there = outputs[contexts.mask] if injection == "prefix" else outputs
        assert outputs.shape == (20, CENTROIDS if injection == "prefix" else 1, WIDTH)
        assert float(there.detach().square().mean().sqrt()) == pytest.approx(SCALE, rel=0.06 if mode is False else 1e-3)


@BOTH
def test_calibration_happens_once_and_is_saved(injection: str) -> None:
    projection = project("mlp", injection)
    projection.calibrate(make_contexts(20))
    before = {name: value.clone() for name, value in projection.state_dict().items()}
    projection.calibrate(make_contexts(20, seed=1, scale=50.0))
    fresh = project("mlp", injection)
    fresh.load_state_dict(before)
    fresh.calibrate(make_contexts(20, seed=1, scale=50.0))
    for found in (projection, fresh):
        assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())


@EACH
@BOTH
def test_what_a_missing_centroid_holds_does_not_matter(node: Node, injection: str) -> None:
    projection, contexts = project(node, injection), make_contexts(20)
    garbage = Contexts(contexts.centroids.masked_fill(~contexts.mask.unsqueeze(2), torch.nan), contexts.mask)
    expected, found = projection(contexts), projection(garbage)
    assert torch.equal(found, expected) and found.isfinite().all()


def test_in_a_prefix_all_centroids_go_through_one_map() -> None:
    projection, contexts = project("linear", "prefix"), make_contexts(5)
    layer = projection.projector.linear
    assert layer.weight.shape == (WIDTH, DIM)  # type: ignore[union-attr]
    outputs = double(projection(contexts))
    for row, place in contexts.mask.nonzero().tolist():
        expected = double(layer.weight) @ double(contexts.centroids[row, place]) + double(layer.bias)  # type: ignore[arg-type]
        torch.testing.assert_close(outputs[row, place], SCALE * expected, rtol=1e-4, atol=1e-7)


def test_one_context_shared_by_a_batch_is_normed_among_all_that_training_draws_from() -> None:
    projection, table = project("mlp", "placeholder"), make_contexts(30)
    layer = projection.projector.linear
    for row in (0, 11):
        shared = Contexts(*(each[[row]] for each in table))
        hidden = by_hand(layer, table.centroids)  # type: ignore[arg-type]
        normed = (hidden[row] - hidden.mean(dim=0)) / (hidden.var(dim=0, correction=0) + 1e-5).sqrt()
        found = projection(shared, table)
        assert found.shape == (1, 1, WIDTH)
        torch.testing.assert_close(double(found[0, 0]), SCALE * normed.clamp(min=0), rtol=1e-4, atol=1e-6)


def test_after_training_other_contexts_do_not_matter() -> None:
    projection, table = project("mlp", "placeholder").eval(), make_contexts(30)
    some = Contexts(*(each[3:5] for each in table))
    assert torch.equal(projection(some, table), projection(some))


@pytest.mark.usefixtures("outside")
def test_a_projector_from_outside_needs_no_more_than_a_name() -> None:
    @PROJECTORS.register("largest_only_for_a_test")
    class LargestOnly(nn.Module):
        def __init__(self, feature_dim: int, dim: int, bias: bool = True) -> None:
            super().__init__()
            self.linear = nn.Linear(feature_dim, dim, bias)

        def forward(self, centroids: Tensor) -> Tensor:
            return self.linear(centroids[:, 0])

    projection = project({"name": "largest_only_for_a_test", "bias": False}, "placeholder")
    contexts = make_contexts(8)
    projection.calibrate(contexts)
    assert float(projection(contexts).detach().square().mean().sqrt()) == pytest.approx(SCALE, rel=1e-4)


def test_an_unknown_projector_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"^ranker.projector: 'mlpp' is not among the projectors") as error:
        project("mlpp", "placeholder")
    assert "Did you mean: mlp" in str(error.value)
