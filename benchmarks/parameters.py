"""Parameters: how many weights the paper's rankers and reward models train, computed from their shapes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config

from console.tables import new_table
from registry import RANKERS

BLOCKS = r"\.(q|k|v|o|gate|up|down)_proj$"
HEAD = r"\.(q|k|v|o|gate|up|down)_proj$|^lm_head$"
RANK = 64
# The hub's count of GPT-2 includes the causal mask of each of its 12 layers, 1,024 x 1,024.
_MASKS = 12 * 1024**2


@dataclass(frozen=True)
class Counted:
    """One line of the table.

    Args:
        method: What is trained.
        published: The number in Language Ranker's Table 1, in units of `unit`.
        unit: 10^6 for reward models and 2^20 for the light rankers.
        count: The number of weights.
    """

    method: str
    published: str
    unit: int
    count: int


def qwen2(hidden: int, layers: int, heads: int, intermediate: int) -> PretrainedConfig:
    """The shape of a Qwen2.5 model, from its published config."""
    return Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads={28: 4, 40: 8}[heads],
        intermediate_size=intermediate,
        vocab_size=152064,
        tie_word_embeddings=False,
    )


QWEN_7B = qwen2(3584, 28, 28, 18944)
QWEN_32B = qwen2(5120, 64, 40, 27648)
LLAMA_8B = LlamaConfig(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    vocab_size=128256,
    tie_word_embeddings=False,
)


def lora_weights(config: PretrainedConfig, layers: str, rank: int = RANK) -> int:
    """The weights that LoRA trains: rank x (inputs + outputs) of each linear layer whose name fits.

    Args:
        config: The shape of the model; no weight is loaded or stored.
        layers: A regular expression for the names of the layers.
        rank: LoRA's rank r.
    """
    return sum(
        rank * (module.in_features + module.out_features)
        for name, module in _model(config).named_modules()
        if isinstance(module, nn.Linear) and re.search(layers, name)
    )


def all_weights(config: PretrainedConfig) -> int:
    """The weights of a model; tied ones count once."""
    return sum(weight.numel() for weight in _model(config).parameters())


def ranker_weights(name: str, feature_dim: int) -> int:
    """The weights of a light ranker with the paper's options."""
    with torch.device("meta"):
        ranker: Any = RANKERS.build({"name": name, "feature_dim": feature_dim}, path="ranker")
    return sum(weight.numel() for weight in ranker.parameters())


def counted() -> list[Counted]:
    """All lines: light rankers, then reward models."""
    light: Mapping[str, int] = {"Llama3.1-8B": 4096, "Qwen2.5-7B": 3584, "Qwen2.5-32B": 5120}
    published = {"list_ranker": ("0.30", "0.27", "0.36"), "point_ranker": ("0.28", "0.25", "0.34")}
    rows = [
        Counted(f"{name}, {base}", number, 2**20, ranker_weights(name, dim))
        for name, numbers in published.items()
        for (base, dim), number in zip(light.items(), numbers, strict=True)
    ]
    models: dict[str, tuple[str, Callable[[], int]]] = {
        "RM Llama3.1-8B, LoRA on the blocks": ("176", lambda: lora_weights(LLAMA_8B, BLOCKS)),
        "RM Llama3.1-8B, LoRA on the language head too": ("176", lambda: lora_weights(LLAMA_8B, HEAD)),
        "RM Qwen2.5-7B, LoRA on the blocks": ("161", lambda: lora_weights(QWEN_7B, BLOCKS)),
        "RM Qwen2.5-32B, LoRA on the blocks": ("537", lambda: lora_weights(QWEN_32B, BLOCKS)),
        "RM GPT-2, whole": ("137", lambda: all_weights(GPT2Config())),
        "RM GPT-2, with its causal masks": ("137", lambda: all_weights(GPT2Config()) + _MASKS),
    }
    return rows + [Counted(method, number, 10**6, count()) for method, (number, count) in models.items()]


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
