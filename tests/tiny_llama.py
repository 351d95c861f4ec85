"""Tiny causal language models with random weights and a tokenizer of their own, in folders as the hub has them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
)

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
PAD, EOS = "<|endoftext|>", "<|end|>"
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('no system here') }}{% endif %}"
    "{{ message['role'] + ': ' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def save(folder: Path, config: type[PretrainedConfig], model: type[PreTrainedModel]) -> Path:
    """Write a model of that kind and a byte-pair tokenizer, which puts nothing around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[PAD, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD).save_pretrained(folder)
    torch.manual_seed(0)
    model(config(vocab_size=tokenizer.get_vocab_size(), **SIZES)).eval().save_pretrained(folder)
    return folder


def write_gguf(folder: Path, file: Path) -> Path:
    """Write a Llama that `save` saved as one GGUF file, in fp32."""
    from gguf import GGUFWriter, TokenType

    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_rope_dimension_count(SIZES["head_dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_token_types([TokenType.CONTROL if token in (PAD, EOS) else TokenType.NORMAL for token in tokens])
    writer.add_eos_token_id(tokens.index(EOS))
    writer.add_pad_token_id(tokens.index(PAD))
    names = {
        "embed_tokens": "token_embd",
        "norm": "output_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, weight in AutoModel.from_pretrained(folder).state_dict().items():
        block, part = "", name.removesuffix(".weight")
        if part.startswith("layers."):
            _, number, part = part.split(".", 2)
            block = f"blk.{number}."
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            # GGUF has the two halves that a rotation pairs side by side.
            weight = weight.view(-1, 2, SIZES["head_dim"] // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(f"{block}{names[part]}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of two layers and 32 features, for texts of up to 128 tokens."""
    return save(tmp_path_factory.mktemp("models") / "tiny-llama", LlamaConfig, LlamaModel)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Qwen3 of two layers and 32 features, for texts of up to 128 tokens."""
    return save(tmp_path_factory.mktemp("models") / "tiny-qwen3", Qwen3Config, Qwen3Model)


@pytest.fixture(scope="session")
def chat_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with a chat template and a language head."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("models") / "chat-llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(folder)
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
