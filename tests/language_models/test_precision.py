"""Precision: bfloat16 where the hardware has it, and no surprise where it has not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from features.extractors.candidate_pool import CandidatePoolExtractor
from features.extractors.embedding import EmbeddingExtractor
from language_models import precision
from language_models.backbone import Backbone
from language_models.encoder import Encoder
from language_models.precision import announce_dtype, bfloat16_slowdown, has_bfloat16, resolve_dtype
from ranking.stores.files import StoreError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_announced_yet() -> None:
    precision.print_once.cache_clear()
    precision._warn_of_emulation.cache_clear()


@pytest.fixture
def with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand for a processor that has it."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device_type: True)


def test_a_processor_whose_kernels_are_held_to_avx2_has_no_bfloat16() -> None:
    """The environment of these tests sets ONEDNN_MAX_CPU_ISA=AVX2; on ARM, conftest.py answers for the processor."""
    assert not has_bfloat16("cpu") and resolve_dtype("auto", CPU) == "float32"


@pytest.mark.parametrize(("flag", "expected"), [(True, True), (False, False)])
def test_avx512_without_bfloat16_does_not_count(monkeypatch: pytest.MonkeyPatch, flag: bool, expected: bool) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: flag)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert has_bfloat16.__wrapped__("cpu") is expected


def test_a_device_of_another_kind_is_not_taken_for_one_that_has_it() -> None:
    assert not has_bfloat16("mps") and resolve_dtype("auto", torch.device("mps")) == "float32"


@pytest.mark.usefixtures("with_bfloat16")
def test_auto_is_bfloat16_where_it_is_native_and_is_kept_by_that_name(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = Backbone(model=str(tiny_llama))
    assert backbone.load().dtype == torch.bfloat16
    assert backbone.identity()["dtype"] == "bfloat16"
    assert capsys.readouterr().err.startswith("ranker.backbone.dtype: auto is bfloat16 on this processor\n")


def test_auto_is_float32_elsewhere(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Backbone(model=str(tiny_llama)).load().dtype == torch.float32
    assert capsys.readouterr().err.startswith("ranker.backbone.dtype: auto is float32 on this processor\n")


def test_an_emulated_bfloat16_is_obeyed_with_one_warning_that_names_the_factor(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_slowdown", lambda device: 7.25)
    for _ in range(2):
        assert Backbone(model=str(tiny_llama), dtype="bfloat16").load().dtype == torch.bfloat16
    warning = capsys.readouterr().err
    assert "takes 7.2 times as long as in float32" in warning and warning.count("emulated") == 1
    assert warning.startswith("ranker.backbone.dtype: bfloat16 is emulated")
    assert "Faster here: ranker.backbone.dtype=auto" in warning


@pytest.mark.usefixtures("with_bfloat16")
def test_a_native_bfloat16_is_not_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    announce_dtype("x.dtype", "bfloat16", "bfloat16", "x.dtype=auto", CPU)
    assert capsys.readouterr().err == ""


def test_only_the_first_process_of_a_run_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    announce_dtype("x.dtype", "auto", "float32", "", CPU)
    assert capsys.readouterr().err == ""


def test_a_store_has_one_name_for_a_dtype_however_it_was_chosen(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "groups.jsonl").write_text('{"query_id": "q", "query": "a", "candidates": [{"id": "b", "text": "b"}]}')

    def path(**options: str) -> Path:
        source = {"name": "jsonl", "path": str(tmp_path / "groups.jsonl")}
        return EmbeddingExtractor(source, Encoder(model=str(tiny_bert), **options)).path  # type: ignore[arg-type]

    explicit = {dtype: path(dtype=dtype) for dtype in ("float32", "bfloat16")}
    assert explicit["float32"] != explicit["bfloat16"]
    assert path() == path(dtype="auto") == explicit["float32"]
    monkeypatch.setattr(precision, "has_bfloat16", lambda device_type: True)
    assert path() == explicit["bfloat16"]
    assert {dtype: path(dtype=dtype) for dtype in ("float32", "bfloat16")} == explicit


def test_auto_takes_a_finished_store_as_it_was_made_and_an_explicit_dtype_does_not(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "groups.jsonl").write_text(
        '{"query_id": "q", "query": "a", "candidates": [{"id": "b", "text": "b", "label": 1}]}'
    )

    def build(extractor: Any, **options: str) -> Path:
        source = {"name": "jsonl", "path": str(tmp_path / "groups.jsonl")}
        encoder = Encoder(model=str(tiny_bert), max_length=64, **options)  # type: ignore[arg-type]
        return extractor(source, encoder, str(tmp_path / extractor.__name__)).run()

    for extractor in (EmbeddingExtractor, CandidatePoolExtractor):
        path = build(extractor)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(precision, "has_bfloat16", lambda device_type: True)
            assert build(extractor) == path
            with pytest.raises(StoreError, match=r"encoder\.dtype: 'float32', now 'bfloat16'"):
                build(extractor, dtype="bfloat16")


def test_the_factor_is_the_quotient_of_two_times_and_draws_no_number_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([6.0, 2.0])
    monkeypatch.setattr(precision, "_shortest_time", lambda work, device: (work(), next(seconds))[1])
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert bfloat16_slowdown(CPU) == 3.0 and torch.equal(torch.rand(3), expected)
