"""Tiny causal models of several architectures with random weights, for 64 tokens of vocabulary."""

from functools import cache
from typing import Any

import pytest
import torch
import transformers

VOCABULARY = 64
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 5,
    "n_head": 4,
    "n_positions": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**SIZES, "head_dim": 8}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", SIZES),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**SIZES, "head_dim": 8}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**SIZES, "head_dim": 8}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**SIZES, "head_dim": 8, "sliding_window": 6}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**SIZES, "head_dim": 8, "sliding_window": 6}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**SIZES, "head_dim": 8, "sliding_window": 6}),
}


@cache
def tiny_causal(name: str) -> Any:
    """A model of that architecture, the same each time; the test is skipped where there is none."""
    config, model, options = MODELS[name]
    if not hasattr(transformers, model):
        pytest.skip(f"transformers {transformers.__version__} has no {model}")
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**options)).eval()
    # Random norms tell a normed state from one that is not.
    for name, weight in made.named_parameters():
        if "norm" in name or "ln_" in name:
            torch.nn.init.uniform_(weight.data, 0.5, 1.5)
    return made


def texts_of(lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Random tokens, none of them special."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=draw).tolist() for length in lengths]
