"""Rankers that read query and candidate together: scores, training, checkpoints."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import save, write_gguf
from torch import Tensor
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from rankers.checkpoint import load_ranker, save_pretrained
from rankers.text.text_ranker import TextRanker
from ranking.batch import TextBatch
from registry import RANKERS, ConfigError

QUERIES = ["open the file", "sort a list", "read the value of a key"]
CANDIDATES = [
    ["open(file)", "file.close()", "read from a file and return the value", "open(file)", "list"],
    ["sort the list", "a", "key", "value of a list to sort"],
    ["the key", "return value", "close", "write", "identify the most relevant passage"],
]
LORA = {"rank": 4, "alpha": 8}


def text_batch() -> TextBatch:
    """Three groups of up to five candidates; the second has four, and the first holds one text twice."""
    mask = torch.tensor([[True] * 5, [True] * 4 + [False], [True] * 5])
    labels = torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0.5, 0, 0], [0, 0, 1, 0, 0]])
    return TextBatch(
        labels=labels,
        mask=mask,
        group=torch.arange(3),
        slot=torch.where(mask, torch.arange(15).view(3, 5), -1),
        queries=QUERIES,
        candidates=[[*each, *[""] * (5 - len(each))] for each in CANDIDATES],
    )


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two layers, whose linear layers are transposed and whose positions are learned."""
    folder = save(tmp_path_factory.mktemp("models") / "tiny-gpt2", LlamaConfig, AutoModel.register and GPT2Like)
    return folder


class GPT2Like(GPT2Model):
    def __init__(self, config: LlamaConfig) -> None:
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
        super().__init__(GPT2Config(vocab_size=config.vocab_size, **sizes))


def build(folder: Path, **options: Any) -> TextRanker:
    torch.manual_seed(0)
    node = {
        "name": "reward_model",
        "backbone": {"model": str(folder), "dtype": "float32"},
        "template": "plain",
        "max_length": 64,
        **({"lora": LORA} if options.get("train", "lora") == "lora" else {}),
        **options,
    }
    ranker: TextRanker = RANKERS.build(node)
    ranker.configure_model()
    return ranker.eval()


def moved(ranker: TextRanker) -> TextRanker:
    """The ranker after a change of all that is trained, so that a loss of any of it shows."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in ranker.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=draw)
    return ranker
