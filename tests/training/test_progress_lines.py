"""Where there is no terminal, a run prints a line now and then and after each validation; on one, a bar."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry import load_config
from training import progress, run
from training.progress import TrainingBar, TrainingLines, progress_callback

VALIDATED = r"val/hit@1 0\.\d{3}, val/mrr 0\.\d{3}, val/ndcg@10 0\.\d{3}, val/recall@5 0\.\d{3}"


class Ticking:
    """A clock on which some time passes whenever somebody looks at it."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


@pytest.fixture
def lines(
    run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """What a run of two epochs of eight steps prints on stderr, where the clock ticks so many seconds at a look."""

    def train(seconds: float) -> list[str]:
        monkeypatch.setattr(run, "progress_callback", lambda monitor: TrainingLines(clock=Ticking(seconds)))
        data = {"batch_size": 8}
        config = run_config(trainer={"enable_progress_bar": True, "max_epochs": 2}, datamodule=data)
        run.train(load_config(config), "run")
        return capsys.readouterr().err.splitlines()

    return train


def test_each_validation_has_a_line_with_what_it_found(lines: Callable[..., list[str]]) -> None:
    found = lines(0.001)
    assert len(found) == 2
    for epoch, line in enumerate(found, start=1):
        start = rf"Epoch {epoch} of 2, step {8 * epoch} of 16, loss \d\.\d{{3}}, lr 0\.0001, "
        assert re.fullmatch(rf"{start}{VALIDATED}, [\d,.]+ steps/s, 0:00:00 left", line), line


def test_where_steps_take_long_there_are_lines_between_with_the_time_left(lines: Callable[..., list[str]]) -> None:
    found = lines(20)
    steps = [line for line in found if line.startswith("Epoch") and "val/" not in line]
    assert len(steps) >= 2
    for line in steps:
        assert re.fullmatch(
            r"Epoch [12] of 2, step \d+ of 16, loss \d\.\d{3}, lr 0\.0001, 0\.\d+ steps/s, \d:\d\d:\d\d left", line
        )


def test_a_validation_or_test_of_many_batches_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0, 0, 0, 4, 6, 6, 6, 20, 36, 36, 36])
    lines = TrainingLines(clock=lambda: float(next(now)))
    trainer: Any = SimpleNamespace(num_val_batches=[4], num_test_batches=[4])
    ranker: Any = None
    lines.on_test_start(trainer, ranker)
    for batch in range(4):
        lines.on_test_batch_end(trainer, ranker, None, None, batch)
    assert capsys.readouterr().err == "Test: 2 of 4 batches, 6 s, 0:00:06 left\n"


def test_a_bar_is_drawn_where_it_can_be_and_shows_the_loss_and_one_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress_callback("val/mrr"), TrainingLines)
    monkeypatch.setattr(progress, "can_redraw", lambda console: True)
    bar = progress_callback("val/mrr")
    assert isinstance(bar, TrainingBar)
    every = {"v_num": 3, "train/loss": 0.5, "val/mrr": 0.25, "val/ndcg@10": 0.75}
    monkeypatch.setattr(progress.RichProgressBar, "get_metrics", lambda *_: every)
    assert bar.get_metrics(None, None) == {"train/loss": 0.5, "val/mrr": 0.25}  # type: ignore[arg-type]
