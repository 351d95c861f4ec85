import pytest
import torch
from torch import nn

from rankers.language_ranker.blocks.gated import Gated
from rankers.language_ranker.blocks.mlp import Mlp
from rankers.language_ranker.blocks.transformer import Transformer
from rankers.language_ranker.projections import Linear
from registry import BLOCKS, ConfigError

NAMES = BLOCKS.names()


def vectors_and_mask(dim: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Five groups of six vectors, the first without any that exists."""
    draw = torch.Generator().manual_seed(0)
    mask = torch.rand(5, 6, generator=draw) < 0.7
    mask[0] = False
    return torch.randn(5, 6, dim, generator=draw), mask


def num_weights(*modules: nn.Module) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("feature_dim", "listwise", "pointwise"), [
    (4096, "0.30", "0.28"), (3584, "0.27", "0.25"), (5120, "0.36", "0.34"),
])  # fmt: skip
def test_sizes_are_those_of_the_paper(feature_dim: int, listwise: str, pointwise: str) -> None:
    projection = Linear(feature_dim)
    assert f"{num_weights(projection, Transformer(64)) / 2**20:.2f}" == listwise
    assert f"{num_weights(projection, Mlp(64)) / 2**20:.2f}" == pointwise


def test_sizes_without_a_projection_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        blocks = Transformer(4096), Mlp(4096)
    assert [f"{num_weights(block) / 2**20:.0f}" for block in blocks] == ["192", "128"]
    assert f"{num_weights(Linear(4096)) / 2**20:.2f}" == "0.25"


def test_gated_is_about_as_large_as_mlp() -> None:
    assert num_weights(Gated(64)) == pytest.approx(num_weights(Mlp(64)), rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_masked_reaches_nothing_else(name: str) -> None:
    block = BLOCKS.build(name, dim=12).eval()
    vectors, mask = vectors_and_mask()
    expected = block(vectors.masked_fill(~mask.unsqueeze(-1), 0), mask)[mask]
    for garbage in (torch.nan, torch.inf, 1e20):
        assert torch.equal(block(vectors.masked_fill(~mask.unsqueeze(-1), garbage), mask)[mask], expected)
    shorter = block(vectors[4:, mask[4]], mask[4:, mask[4]])
    torch.testing.assert_close(block(vectors, mask)[4:, mask[4]], shorter)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_follow_their_vectors_under_permutation(name: str) -> None:
    block = BLOCKS.build(name, dim=12).eval()
    vectors, mask = vectors_and_mask()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    permuted = block(vectors[:, order], mask[:, order])[mask[:, order]]
    torch.testing.assert_close(permuted, block(vectors, mask)[:, order][mask[:, order]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_finite_even_where_nothing_exists(name: str, dtype: torch.dtype) -> None:
    block = BLOCKS.build({"name": name, "dropout": 0.2}, dim=12).to(dtype)
    vectors, mask = vectors_and_mask()
    vectors = vectors.to(dtype).requires_grad_()
    outputs = block(vectors, mask)
    assert outputs.shape == vectors.shape and outputs.dtype == dtype
    outputs.square().sum().backward()
    assert outputs.isfinite().all() and vectors.grad.isfinite().all()
    assert all(weight.grad.isfinite().all() and weight.grad.any() for weight in block.parameters() if weight.dim() > 1)


@pytest.mark.parametrize("name", NAMES)
def test_identity_init_starts_as_the_identity_and_can_leave_it(name: str) -> None:
    block = BLOCKS.build({"name": name, "identity_init": True}, dim=12)
    vectors, mask = vectors_and_mask()
    outputs = block(vectors, mask)
    assert torch.equal(outputs[mask], vectors[mask])
    outputs[mask].square().sum().backward()
    assert sum(bool(weight.grad is not None and weight.grad.any()) for weight in block.parameters()) >= 2
    assert not torch.equal(BLOCKS.build(name, dim=12)(vectors, mask)[mask], vectors[mask])


@pytest.mark.parametrize("num_heads", [1, 3, 4])
def test_transformer_is_the_pre_norm_encoder_layer_of_torch(num_heads: int) -> None:
    block = Transformer(12, num_heads).eval()
    layer = nn.TransformerEncoderLayer(12, num_heads, 48, activation="gelu", norm_first=True, batch_first=True).train()
    for dropout in (layer.dropout, layer.dropout1, layer.dropout2):
        dropout.p = 0.0
    layer.self_attn.dropout = 0.0
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": block.query_key_value.weight,
            "self_attn.in_proj_bias": block.query_key_value.bias,
            "self_attn.out_proj.weight": block.out.weight,
            "self_attn.out_proj.bias": block.out.bias,
            "linear1.weight": block.mlp.expand.weight,
            "linear1.bias": block.mlp.expand.bias,
            "linear2.weight": block.mlp.contract.weight,
            "linear2.bias": block.mlp.contract.bias,
            "norm1.weight": block.norm.weight,
            "norm1.bias": block.norm.bias,
            "norm2.weight": block.mlp.norm.weight,
            "norm2.bias": block.mlp.norm.bias,
        }
    )
    vectors, mask = vectors_and_mask()
    expected = layer(vectors[1:], src_key_padding_mask=~mask[1:])
    torch.testing.assert_close(block(vectors, mask)[1:][mask[1:]], expected[mask[1:]])


def test_gated_is_a_gated_linear_unit() -> None:
    block = Gated(6).double()
    vectors, mask = torch.randn(2, 3, 6, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool)
    normed = (vectors - vectors.mean(-1, keepdim=True)) / (vectors.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    gate, value = (normed @ block.gate_and_expand.weight.T + block.gate_and_expand.bias).split(16, dim=-1)
    expected = vectors + (gate / (1 + (-gate).exp()) * value) @ block.contract.weight.T + block.contract.bias
    torch.testing.assert_close(block(vectors, mask), expected)


@pytest.mark.parametrize(("dim", "num_heads"), [(64, 4), (6, 2), (7, 1), (384, 4)])
def test_the_default_number_of_heads_suits_any_size(dim: int, num_heads: int) -> None:
    assert Transformer(dim).num_heads == num_heads


@pytest.mark.parametrize("num_heads", [5, 0, -2])
def test_heads_that_do_not_divide_the_size_are_refused_with_those_that_do(num_heads: int) -> None:
    with pytest.raises(ValueError, match=f"num_heads {num_heads} does not divide dim 12; what does: 1, 2, 3, 4, 6, 12"):
        Transformer(12, num_heads=num_heads)


@pytest.mark.parametrize("name", ["gated", "mlp", "transformer"])
def test_a_hidden_layer_of_no_width_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="ratio: expected int from 1 to 256, got 0"):
        BLOCKS.build({"name": name, "ratio": 0}, dim=12)
