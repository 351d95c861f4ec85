"""The encoders of the documentation: each line is valid, and its vectors are those of a forward on each text alone."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_llama import SIZES, save
from tokenizers import Tokenizer, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    MistralConfig,
    MistralModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from language_models.encoder import Encoder
from registry import schema

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "encoders.md").read_text()
LINES = {name: yaml.safe_load(node) for name, node in re.findall(r"^\| ([^|]+) \| `(\{.*\})` \|$", DOCS, re.MULTILINE)}
ARCHITECTURES = {
    "all-MiniLM-L6-v2": "bert",
    "Contriever": "bert",
    "E5": "bert",
    "E5, multilingual": "xlm_roberta",
    "E5-Mistral": "mistral",
    "BGE": "bert",
    "BGE-M3": "xlm_roberta",
    "KaLM": "qwen2",
    "Qwen3-Embedding": "qwen3",
}
TEXTS = ["open the file", "a list of values to sort and read", "the"]


class SmallXLMRoberta(XLMRobertaModel):
    """An XLM-RoBERTa with the vocabulary that `save` has made; its positions begin after the padding token's."""

    def __init__(self, config: PretrainedConfig) -> None:
        sizes = {name: SIZES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
        size = config.vocab_size  # type: ignore[attr-defined]
        super().__init__(XLMRobertaConfig(vocab_size=size, max_position_embeddings=130, pad_token_id=0, **sizes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_qwen3: Path) -> dict[str, Path]:
    """A tiny model of each architecture; as published, the causal ones end each text with an end-of-text token."""
    root = tmp_path_factory.mktemp("encoders")
    kinds: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
        "xlm_roberta": (MistralConfig, SmallXLMRoberta),
        "mistral": (MistralConfig, MistralModel),
        "qwen2": (Qwen2Config, Qwen2Model),
    }
    found = {name: save(root / name, *kind) for name, kind in kinds.items()}
    for name in ("mistral", "qwen3"):
        source = tiny_qwen3 if name == "qwen3" else found[name]
        tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        end = tokenizer.token_to_id("<|endoftext|>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
        )
        folder = root / f"{name}-ended"
        AutoModel.from_pretrained(source).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>").save_pretrained(folder)
        found[name] = folder
    return {"bert": tiny_bert, **found}


def test_every_encoder_of_the_documentation_is_checked() -> None:
    assert LINES.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_line_gives_the_vectors_of_its_makers_recipe(name: str, folders: dict[str, Path]) -> None:
    options: dict[str, Any] = schema.bind(Encoder, LINES[name], "encoder")
    assert options["model"] == LINES[name]["model"]
    folder = folders[ARCHITECTURES[name]]
    encoder = Encoder(**{**options, "model": str(folder), "dtype": "float32", "device": "cpu", "max_length": 60})
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for prompt in (encoder.query_prompt, encoder.candidate_prompt):
        vectors = encoder.encode(TEXTS, prompt)
        for text, vector in zip(TEXTS, vectors, strict=True):
            ids = tokenizer(prompt + text, truncation=True, max_length=60)["input_ids"]
            with torch.no_grad():
                states = model(torch.tensor([ids])).last_hidden_state[0]
            pooled = {"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[LINES[name]["pooling"]]
            if LINES[name].get("normalize"):
                pooled = pooled / pooled.norm()
            torch.testing.assert_close(vector, pooled, atol=1e-4, rtol=1e-4)
