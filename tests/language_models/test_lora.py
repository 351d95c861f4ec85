"""LoRA corrects the layers it is asked to, starts as nothing, and is all there is to train."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2Model, MambaConfig, MambaModel

from language_models.backbone import Backbone
from language_models.lora import Lora, add_lora, is_adapter
from registry import ConfigError, schema

LAYERS = {
    "tiny_bert": ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                  "intermediate.dense", "output.dense"],
    "tiny_llama": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                   "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
}  # fmt: skip
BLOCKS = {"tiny_bert": "encoder.layer", "tiny_llama": "layers"}
EACH = pytest.mark.parametrize("name", LAYERS)


def load(name: str, request: pytest.FixtureRequest, dtype: str = "float32") -> nn.Module:
    return Backbone(model=str(request.getfixturevalue(name)), dtype=dtype).load()  # type: ignore[arg-type]


def states(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[3, 4, 5, 6]])).last_hidden_state


@EACH
def test_all_linear_layers_of_the_blocks_are_corrected_and_nothing_else_is_trained(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = load(name, request)
    shapes = {key: weight.shape for key, weight in model.named_parameters()}
    add_lora(model, Lora(rank=3))
    trained = {key: weight.shape for key, weight in model.named_parameters() if weight.requires_grad}
    expected = {}
    for number in range(2):
        for layer in LAYERS[name]:
            path = f"{BLOCKS[name]}.{number}.{layer}"
            out, into = shapes[f"{path}.weight"]
            expected[f"{path}.lora_A.default.weight"] = (3, into)
            expected[f"{path}.lora_B.default.weight"] = (out, 3)
    assert trained == expected
    assert all(is_adapter(key) == weight.requires_grad for key, weight in model.named_parameters())


@EACH
def test_a_correction_starts_as_none_and_is_the_formula(name: str, request: pytest.FixtureRequest) -> None:
    plain, model = load(name, request), load(name, request)
    add_lora(model, Lora(rank=4, alpha=6.0))
    assert torch.equal(states(model), states(plain))
    layers, weights = dict(plain.named_modules()), dict(model.named_parameters())
    with torch.no_grad():
        for key, weight in weights.items():
            if "lora_B" in key:
                weight.normal_(std=0.1)
                down = weights[key.replace("lora_B", "lora_A")]
                layers[key.partition(".lora_B")[0]].weight += 6.0 / 4 * weight @ down  # type: ignore[operator]
    torch.testing.assert_close(states(model), states(plain), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(states(model), states(load(name, request)), atol=1e-2)


def test_corrections_are_fp32_whatever_the_backbone_is(request: pytest.FixtureRequest) -> None:
    model = load("tiny_llama", request, "bfloat16")
    add_lora(model, Lora())
    assert {weight.dtype for key, weight in model.named_parameters() if is_adapter(key)} == {torch.float32}
    assert {weight.dtype for key, weight in model.named_parameters() if not is_adapter(key)} == {torch.bfloat16}
    assert states(model).dtype == torch.bfloat16


def test_layers_that_have_their_matrix_the_other_way_round_are_corrected_as_well() -> None:
    model = GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=8, bos_token_id=0, eos_token_id=1)).eval()
    before = states(model)
    add_lora(model, Lora(rank=2, alpha=2.0))
    weights = {key: weight for key, weight in model.named_parameters() if weight.requires_grad}
    assert {key.split(".")[2] + "." + key.split(".")[3] for key in weights} == {
        "attn.c_attn",
        "attn.c_proj",
        "mlp.c_fc",
        "mlp.c_proj",
    }
    assert torch.equal(states(model), before)
    with torch.no_grad():
        up, down = (
            weights["h.0.mlp.c_fc.lora_B.default.weight"].normal_(),
            weights["h.0.mlp.c_fc.lora_A.default.weight"],
        )
        corrected = states(model)
        model.h[0].mlp.c_fc.base_layer.weight += (up @ down).T
        up.zero_()
    torch.testing.assert_close(states(model), corrected, rtol=1e-4, atol=1e-4)


def test_a_backbone_that_cannot_be_corrected_is_refused() -> None:
    model = MambaModel(MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=8))
    with pytest.raises(ConfigError, match=r"^ranker.lora: .*Mamba"):
        add_lora(model, Lora())


def test_without_lora_the_backbone_stays_as_it_is(request: pytest.FixtureRequest) -> None:
    model = load("tiny_bert", request)
    add_lora(model, None)
    assert not any(weight.requires_grad for weight in model.parameters())


def test_layers_can_be_named(request: pytest.FixtureRequest) -> None:
    model = load("tiny_llama", request)
    add_lora(model, Lora(targets=["q_proj", "mlp.down_proj"]))
    corrected = {key.partition(".lora")[0] for key, weight in model.named_parameters() if weight.requires_grad}
    assert corrected == {f"layers.{n}.{layer}" for n in (0, 1) for layer in ("self_attn.q_proj", "mlp.down_proj")}


def test_an_unknown_layer_is_refused_with_the_known_ones(request: pytest.FixtureRequest) -> None:
    with pytest.raises(ConfigError, match=r"^ranker.lora.targets: .* no linear layer 'q_prj'") as error:
        add_lora(load("tiny_llama", request), Lora(targets=["q_prj"]))
    assert "Did you mean: q_proj" in str(error.value) and "down_proj" in str(error.value)


def test_targets_in_yaml_are_all_or_a_list() -> None:
    assert schema.bind(Lora, {"targets": ["q_proj"]}, "ranker.lora")["targets"] == ["q_proj"]
    assert schema.bind(Lora, {"rank": "8"}, "ranker.lora")["targets"] == "all"
    with pytest.raises(
        ConfigError, match=r"ranker.lora.targets: expected all \| list\[str, not empty\], not empty, got 'none'"
    ):
        schema.bind(Lora, {"targets": "none"}, "ranker.lora")
