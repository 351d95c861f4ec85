"""Tiny models of every kind that rankers of texts read with, and a batch of texts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import save, write_gguf
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertForSequenceClassification,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForSequenceClassification,
    PretrainedConfig,
)

from rankers.text.text_ranker import TextRanker
from ranking.batch import TextBatch
from registry import RANKERS

QUERIES = ["open the file", "sort a list", "read the value of a key"]
CANDIDATES = [
    ["open(file)", "file.close()", "read from a file and return the value", "open(file)", "list"],
    ["sort the list", "a", "key", "value of a list to sort"],
    ["the key", "return value", "close", "write", "identify the most relevant passage"],
]
CHAT = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
CHAT += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"


class SmallGPT2(GPT2Model):
    """A GPT-2 with the vocabulary that `save` has made."""

    def __init__(self, config: PretrainedConfig) -> None:
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
        super().__init__(GPT2Config(vocab_size=config.vocab_size, **sizes))  # type: ignore[attr-defined, arg-type]


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GPT-2: transposed linear layers, learned positions, no chat template."""
    return save(tmp_path_factory.mktemp("models") / "tiny-gpt2", LlamaConfig, SmallGPT2)


@pytest.fixture(scope="session")
def tiny_chat(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("models") / "tiny-chat"
    shutil.copytree(tiny_llama, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same Llama as one GGUF file."""
    folder = tmp_path_factory.mktemp("models") / "tiny-gguf"
    folder.mkdir()
    write_gguf(tiny_llama, folder / "tiny.gguf")
    return folder


@pytest.fixture(scope="session")
def typed_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny BERT, whose tokenizer says which token is of which text, as BERT's own does."""
    folder = tmp_path_factory.mktemp("models") / "typed-bert"
    shutil.copytree(tiny_bert, folder)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    AutoTokenizer.from_pretrained(folder, model_input_names=names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_classifier(typed_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT and a trained head of one output, as ready-made cross-encoders have it."""
    folder = tmp_path_factory.mktemp("models") / "bert-classifier"
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(typed_bert, num_labels=1)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    AutoTokenizer.from_pretrained(typed_bert).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_classifier(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama and a trained head of one output, as ready-made reward models have it."""
    folder = tmp_path_factory.mktemp("models") / "llama-classifier"
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(tiny_llama, num_labels=1)
    LlamaForSequenceClassification(config).eval().save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


@pytest.fixture
def texts() -> TextBatch:
    """Three groups of up to five candidates; the second has four, and the first holds one text twice."""
    mask = torch.tensor([[True] * 5, [True] * 4 + [False], [True] * 5])
    return TextBatch(
        labels=torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0.5, 0, 0], [0, 0, 1, 0, 0]]),
        mask=mask,
        group=torch.arange(3),
        slot=torch.where(mask, torch.arange(15).view(3, 5), -1),
        queries=QUERIES,
        candidates=[[*each, *[""] * (5 - len(each))] for each in CANDIDATES],
    )


@pytest.fixture(scope="session")
def build() -> Callable[..., TextRanker]:
    """Build a ranker of texts on a tiny model, with all that is trained moved off its start."""

    def made(folder: Path, name: str = "reward_model", *, moved: bool = True, **options: Any) -> TextRanker:
        torch.manual_seed(0)
        backbone = {"model": str(folder), "dtype": "float32"} | options.pop("backbone", {})
        usual: dict[str, Any] = {"template": "plain", "max_length": 64}
        if options.get("train", "lora") == "lora":
            usual["lora"] = {"rank": 4, "alpha": 8, "dropout": 0}
        ranker: TextRanker = RANKERS.build({"name": name, "backbone": backbone, **usual, **options})
        ranker.configure_model()
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in ranker.parameters():
                if moved and weight.requires_grad:
                    weight += 0.05 * torch.randn(weight.shape, generator=draw)
        return ranker.eval()

    return made
