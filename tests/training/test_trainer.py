"""The trainer's precision: bfloat16 where the hardware has it, and no surprise where it has not."""

import pytest
import torch

from language_models import precision
from training.trainer import build_trainer, resolve_backbone


@pytest.fixture(autouse=True)
def _nothing_announced_yet() -> None:
    precision.print_once.cache_clear()
    precision._warn_of_emulation.cache_clear()


def test_auto_of_the_trainer_is_what_the_hardware_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"accelerator": "cpu", "precision": "auto"}
    assert build_trainer(options).precision == "32-true"
    assert "trainer.precision: auto is 32-true on this processor" in capsys.readouterr().err
    monkeypatch.setattr(precision, "has_bfloat16", lambda device_type: True)
    assert build_trainer(options).precision == "bf16-mixed"


@pytest.mark.parametrize("asked", ["bf16-mixed", "bf16-true"])
def test_an_emulated_precision_of_the_trainer_is_obeyed_with_one_warning(
    asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert build_trainer({"accelerator": "cpu", "precision": asked}).precision.startswith("bf16")
    warning = capsys.readouterr().err
    assert warning.startswith(f"trainer.precision: {asked} is emulated") and warning.count("\n") == 1
    assert "Faster here: trainer.precision=auto" in warning


def test_a_backbone_has_the_dtype_of_the_device_that_the_trainer_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device_type: device_type == "cuda")
    monkeypatch.setattr("training.trainer.device_named", lambda: torch.device("cuda"))
    ranker = {"name": "lranker", "backbone": {"model": "m", "dtype": "auto"}}
    for accelerator, dtype in {"cpu": "float32", "auto": "bfloat16"}.items():
        assert resolve_backbone(ranker, {"accelerator": accelerator})["backbone"] == {"model": "m", "dtype": dtype}
    explicit = {"name": "lranker", "backbone": {"model": "m", "dtype": "float16"}}
    assert resolve_backbone(explicit, {"accelerator": "cpu"}) == explicit
    assert resolve_backbone({"name": "list_ranker"}, {}) == {"name": "list_ranker"}
