"""A tiny causal language model with random weights and a tokenizer of its own, in a folder as the hub has it."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

TEXTS = [
    "the value of a list to sort and read from a file",
    "Task: Passage Ranking\nQuery: open the file\n Based on the global context information",
    "(candidate passages) and the query above, identify the most relevant passage. Candidates:",
]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


def _save(folder: Path, config: type, model: type) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[1], pad_token=special[0]).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    model(config(vocab_size=tokenizer.get_vocab_size(), **SIZES)).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of two layers and 32 features, for texts of up to 128 tokens."""
    return _save(tmp_path_factory.mktemp("models") / "tiny-llama", LlamaConfig, LlamaModel)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Qwen3 of two layers and 32 features, for texts of up to 128 tokens."""
    return _save(tmp_path_factory.mktemp("models") / "tiny-qwen3", Qwen3Config, Qwen3Model)
