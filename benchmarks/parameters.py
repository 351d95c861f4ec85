"""Parameters: how many weights the paper's rankers and reward models train, computed from their shapes."""

from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config

from console.tables import new_table
from language_models.lora import Lora, lora_targets
from registry import RANKERS

LORA = Lora(rank=64)
"""All linear layers of the blocks: q k v o gate up down."""
# The hub's count of GPT-2 includes the causal mask of each of its 12 layers, 1,024 x 1,024.
_MASKS = 12 * 1024**2


@dataclass(frozen=True)
class Counted:
    """One line of the table.

    Args:
        method: What is trained.
        published: The number in Language Ranker's Tables 1 and 3, in units of `unit`.
        unit: 10^6 for reward models and 2^20 for the light rankers.
        count: The number of weights.
    """

    method: str
    published: str
    unit: int
    count: int


# https://huggingface.co/Qwen/Qwen2.5-7B-Instruct/blob/main/config.json
QWEN_7B = Qwen2Config(
    hidden_size=3584,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    intermediate_size=18944,
    vocab_size=152064,
    tie_word_embeddings=False,
)
# https://huggingface.co/Qwen/Qwen2.5-32B-Instruct/blob/main/config.json
QWEN_32B = Qwen2Config(
    hidden_size=5120,
    num_hidden_layers=64,
    num_attention_heads=40,
    num_key_value_heads=8,
    intermediate_size=27648,
    vocab_size=152064,
    tie_word_embeddings=False,
)
# https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct/blob/main/config.json
LLAMA_8B = LlamaConfig(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    vocab_size=128256,
    tie_word_embeddings=False,
)
# https://huggingface.co/openai-community/gpt2/blob/main/config.json, whose values are the defaults.
GPT2 = GPT2Config()


def lora_weights(config: PretrainedConfig, *, language_head: bool = False) -> int:
    """The weights that LoRA of rank 64 trains: for each corrected layer 64 x (inputs + outputs).

    Args:
        config: The shape of the model; no weight is loaded or stored.
        language_head: Whether the language head is corrected as well as the layers of the blocks.
    """
    model = _model(config)
    names = [*lora_targets(model, LORA), *(["lm_head"] if language_head else [])]
    layers = [model.get_submodule(name) for name in names]
    return sum(LORA.rank * (layer.in_features + layer.out_features) for layer in layers)  # type: ignore[operator]


def all_weights(config: PretrainedConfig) -> int:
    """The weights of a model; tied ones count once."""
    return sum(weight.numel() for weight in _model(config).parameters())


def ranker_weights(name: str, feature_dim: int, **options: Any) -> int:
    """The weights of a light ranker with the paper's options, except those given."""
    with torch.device("meta"):
        ranker: Any = RANKERS.build({"name": name, "feature_dim": feature_dim, **options}, path="ranker")
    return sum(weight.numel() for weight in ranker.parameters())


def counted() -> list[Counted]:
    """All lines: light rankers, then reward models."""
    llama, qwen, qwen_32b = (config.hidden_size for config in (LLAMA_8B, QWEN_7B, QWEN_32B))
    light = [
        ("ListRanker, Llama3.1-8B", "0.30", ranker_weights("list_ranker", llama)),
        ("ListRanker, Llama3.1-8B, w/o projection", "192", ranker_weights("list_ranker", llama, projection=None)),
        ("ListRanker, Qwen2.5-7B", "0.27", ranker_weights("list_ranker", qwen)),
        ("ListRanker, Qwen2.5-32B", "0.36", ranker_weights("list_ranker", qwen_32b)),
        ("PointRanker, Llama3.1-8B", "0.28", ranker_weights("point_ranker", llama)),
        ("PointRanker, Llama3.1-8B, w/o projection", "128", ranker_weights("point_ranker", llama, projection=None)),
        ("PointRanker, Llama3.1-8B, w/o MLP", "0.25", ranker_weights("point_ranker", llama, num_blocks=0)),
        ("PointRanker, Qwen2.5-7B", "0.25", ranker_weights("point_ranker", qwen)),
        ("PointRanker, Qwen2.5-32B", "0.34", ranker_weights("point_ranker", qwen_32b)),
    ]
    reward = [
        ("RM Llama3.1-8B, LoRA on the blocks", "176", lora_weights(LLAMA_8B)),
        ("RM Llama3.1-8B, LoRA on the language head too", "176", lora_weights(LLAMA_8B, language_head=True)),
        ("RM Qwen2.5-7B, LoRA on the blocks", "161", lora_weights(QWEN_7B)),
        ("RM Qwen2.5-32B, LoRA on the blocks", "537", lora_weights(QWEN_32B)),
        ("RM GPT-2, whole", "137", all_weights(GPT2)),
        ("RM GPT-2, with its causal masks", "137", all_weights(GPT2) + _MASKS),
    ]
    units = [2**20] * len(light) + [10**6] * len(reward)
    return [
        Counted(method, number, unit, count)
        for (method, number, count), unit in zip([*light, *reward], units, strict=True)
    ]


def table() -> Table:
    """The counts beside the published ones."""
    made = new_table(
        "method", "weights", "M", "paper", title="Trained weights, from shapes; M = 2^20 (rankers), 10^6 (RM)"
    )
    for row in counted():
        made.add_row(row.method, f"{row.count:,}", f"{row.count / row.unit:.2f}", row.published)
    return made


def _model(config: PretrainedConfig) -> nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
