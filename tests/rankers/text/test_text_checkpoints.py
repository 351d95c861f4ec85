"""Rankers of texts come back from disk with the same scores, in another process, and never without their head."""

import json
import shutil
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Fork
from safetensors.torch import load_file, save_file

from language_models import TRANSFORMERS
from language_models.backbone import GGUF_NEEDS
from rankers.checkpoint import load_ranker, save_pretrained
from rankers.text.text_ranker import TextRanker
from ranking.batch import TextBatch
from registry import ConfigError

Build = Callable[..., TextRanker]
# Loads every ranker of a folder and saves the scores of the same texts.
LOADER = """
import sys
from pathlib import Path

import torch

from rankers.checkpoint import load_ranker

torch.set_num_threads(1)
folder = Path(sys.argv[1])
queries, candidates = torch.load(folder / "texts.pt", weights_only=True)
for saved in sorted(folder.glob("*.saved")):
    with torch.no_grad():
        torch.save(load_ranker(saved).score(queries, candidates), saved.with_suffix(".scores"))
"""


@pytest.mark.slow
def test_every_backbone_whole_and_lora_with_each_head_comes_back_equal_in_another_process(
    request: pytest.FixtureRequest, build: Build, texts: TextBatch, tmp_path: Path
) -> None:
    package = tmp_path / "tiny_package"
    shutil.copytree(request.getfixturevalue("tiny_llama"), package / "model")
    (package / "__init__.py").touch()
    sys.path.insert(0, str(tmp_path))
    gguf = request.getfixturevalue("tiny_gguf")
    kinds: dict[str, tuple[Path, dict[str, Any]]] = {
        "llama": (request.getfixturevalue("tiny_llama"), {}),
        "gpt2": (request.getfixturevalue("tiny_gpt2"), {}),
        "bert": (request.getfixturevalue("typed_bert"), {"template": "pair"}),
        "package": (Path("nowhere"), {"backbone": {"package": "tiny_package"}}),
        "gguf": (gguf, {"backbone": {"gguf": "tiny.gguf"}}),
        "ready-bert": (request.getfixturevalue("bert_classifier"), {"template": "pair", "head": "pretrained"}),
        "ready-llama": (request.getfixturevalue("llama_classifier"), {"head": "pretrained"}),
    }
    if TRANSFORMERS < GGUF_NEEDS:
        del kinds["gguf"]
    candidates = [[text for text in row if text] for row in texts.candidates]
    torch.save((texts.queries, candidates), tmp_path / "texts.pt")
    expected = {}
    try:
        for kind, (folder, options) in kinds.items():
            heads = [{}] if "head" in options else [{"num_outputs": 1}, {"num_outputs": 2}]
            heads += [{"num_outputs": 1, "pooling": "mean"}] if kind in ("llama", "bert") else []
            dtypes = ("float32", "bfloat16") if kind in ("llama", "ready-bert") else ("float32",)
            for dtype, train in product(dtypes, ("all", "lora", "head")):
                for head in heads:
                    given = {**options, **head, "train": train}
                    given["backbone"] = {**options.get("backbone", {}), "dtype": dtype}
                    ranker = build(folder, **given)
                    name = "-".join([kind, dtype, train, *map(str, head.values()), "ranker"]) + ".saved"
                    save_pretrained(ranker, tmp_path / name)
                    with torch.no_grad():
                        expected[name] = ranker.score(texts.queries, candidates)
    finally:
        sys.path.remove(str(tmp_path))
    loader = Fork(LOADER, [tmp_path], paths=[tmp_path])
    _, errors = loader.communicate()
    assert loader.returncode == 0, errors
    for name, scores in expected.items():
        found = torch.load((tmp_path / name).with_suffix(".scores"), weights_only=True)
        assert torch.equal(found, scores), name
    assert len(expected) == (54 if "gguf" in kinds else 48)


@pytest.mark.parametrize("train", ["all", "lora", "head"])
def test_a_checkpoint_without_its_head_is_refused(tiny_llama: Path, build: Build, tmp_path: Path, train: str) -> None:
    folder = save_pretrained(build(tiny_llama, train=train), tmp_path / "saved")
    weights = load_file(folder / "model.safetensors")
    assert {"head.weight", "head.bias"} <= weights.keys()
    save_file({name: weight for name, weight in weights.items() if "head" not in name}, folder / "model.safetensors")
    description = json.loads((folder / "config.json").read_text())
    for name in ("weights_sha256", "sha256"):
        del description[name]
    (folder / "config.json").write_text(json.dumps(description))
    with pytest.raises(ConfigError, match=r"weights do not fit reward_model: .*2 missing: head.bias") as error:
        load_ranker(folder)
    assert "saved without its head: save it again with save_pretrained, or load best.ckpt" in str(error.value)


def test_a_checkpoint_with_lora_holds_the_corrections_and_the_head_and_nothing_else(
    tiny_llama: Path, build: Build
) -> None:
    names = build(tiny_llama).state_dict().keys()
    assert all(".lora_" in name or name.startswith("head.") for name in names)
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".")[-4] for name in names if ".lora_" in name} == set(linear)
    assert len(names) == 2 * 2 * len(linear) + 2


def test_other_weights_under_the_same_name_are_refused(tiny_llama: Path, build: Build, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    folder = save_pretrained(build(model), tmp_path / "saved")
    weights = load_file(model / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, model / "model.safetensors")
    with pytest.raises(ConfigError, match=r"ranker.backbone.sha256: the weights in .* have the sha256"):
        load_ranker(folder)
