"""The head of a ready-made classifier gives the classifier's own outputs from one state of each text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.roberta.modeling_roberta import RobertaClassificationHead

from language_models.backbone import Backbone
from registry import ConfigError

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
    "num_labels": 1,
}
DISTIL = {"vocab_size": 60, "dim": 16, "n_layers": 2, "n_heads": 2, "num_labels": 1}
KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "electra": ("electra", SIZES | {"embedding_size": 16}, "first"),
    "roberta": ("roberta", SIZES, "first"),
    "mpnet": ("mpnet", SIZES, "first"),
    "deberta": ("deberta-v2", SIZES | {"pooler_hidden_size": 16}, "first"),
    "distilbert": ("distilbert", DISTIL, "first"),
    "modernbert": ("modernbert", SIZES | {"classifier_pooling": "cls", "pad_token_id": 0}, "first"),
    "modernbert of means": ("modernbert", SIZES | {"classifier_pooling": "mean", "pad_token_id": 0}, "mean"),
    "llama": ("llama", SIZES, "last"),
}


def save(folder: Path, kind: str, **options: Any) -> Path:
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **options)).eval().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_base_and_head_together_are_the_classifier(tmp_path: Path, kind: str, dtype: Any) -> None:
    name, options, expected_pooling = KINDS[kind]
    folder = save(tmp_path, name, **options)
    base, head, pooling = Backbone(model=str(folder), dtype=dtype).load_classifier()
    whole = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    assert pooling == expected_pooling
    assert {weight.dtype for weight in head.parameters()} == {torch.float32}
    assert {weight.dtype for weight in base.parameters()} == {getattr(torch, dtype)}
    counts = [sum(weight.numel() for weight in each.parameters()) for each in (base, head, whole)]
    assert counts[0] + counts[1] == counts[2]
    with torch.no_grad():
        for text in ([5, 20, 33], [7, 8, 9, 50, 11, 12]):
            ids = torch.tensor([text])
            states = base(input_ids=ids).last_hidden_state[0].float()
            state = {"first": states[0], "last": states[-1], "mean": states.mean(dim=0)}[pooling]
            found, expected = head(state.unsqueeze(0)), whole(input_ids=ids).logits.float()
            tolerance = 1e-5 if dtype == "float32" else 0.05
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_a_head_that_reads_more_than_one_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        RobertaClassificationHead, "forward", lambda self, states: self.out_proj(states.cumsum(dim=1)[:, -1].tanh())
    )
    with pytest.raises(ConfigError, match=r"(?s)reads more than one state of a text, which .*ranker.head=new"):
        Backbone(model=str(save(tmp_path, "roberta", **SIZES))).load_classifier()


def test_a_head_of_several_outputs_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, "roberta", **SIZES | {"num_labels": 3})
    with pytest.raises(ConfigError, match=r"has a head of 3 outputs, and a score is one"):
        Backbone(model=str(folder)).load_classifier()


def test_positions_that_a_model_keeps_for_padding_do_not_count(tmp_path: Path) -> None:
    backbone = Backbone(model=str(save(tmp_path, "roberta", **SIZES)))
    outline = backbone.outline()
    backbone.check_length(38, "ranker", outline)
    with pytest.raises(ConfigError, match=r"ranker.max_length: 39 is more than the 38 tokens of"):
        backbone.check_length(39, "ranker", outline)
