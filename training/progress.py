"""Progress: Lightning's progress bar on a terminal, with fewer values, and lines in a log."""

import time
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from console.decimals import decimal, short
from console.progress import Clock, Pace, bar_console, can_redraw
from rankers.base import Ranker
from training.callbacks import in_training


def progress_callback(monitor: str) -> ProgressBar:
    """A progress bar if stderr is a terminal that can show one, else lines on stderr.

    Args:
        monitor: The metric to show beside the bar.
    """
    return TrainingBar(monitor) if can_redraw(bar_console()) else TrainingLines()


class TrainingBar(RichProgressBar):
    """Shows the loss and one metric beside the bar; more values would wrap it to several lines.

    Args:
        monitor: The metric to show.
    """

    def __init__(self, monitor: str) -> None:
        super().__init__(theme=RichProgressBarTheme(metrics_format="z.3f"), console_kwargs={"stderr": True})
        self._shown = ("train/loss", monitor)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The values to show."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name in self._shown}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the bar of the last epoch; the table shows the results of validation and test."""
        if stage != TrainerFn.FITTING and self.progress is not None:
            self.progress.live.transient = True
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bars before the error message is printed."""
        if isinstance(pl_module, Ranker):
            pl_module.end_progress()
        super().on_exception(trainer, pl_module, exception)


class TrainingLines(ProgressBar):
    """Prints a line after a few seconds, then about every half minute, and after each validation.

    Args:
        console: The console to print on; None for stderr.
        clock: Returns the time in seconds.
    """

    def __init__(self, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._console, self._clock = console or Console(stderr=True), clock
        self._training, self._judging, self._enabled = Pace(clock), Pace(clock), True

    def disable(self) -> None:
        """Print nothing; Lightning calls this in all processes except the first."""
        self._enabled = False

    def enable(self) -> None:
        """Print again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the speed measurement; earlier steps of a resumed run do not count."""
        self._training.restart()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print epoch, step, loss, learning rate, steps per second and time left, if a line is due."""
        if self._training.due():
            self._say(f"{self._place(trainer)}{self._loss(trainer)}{self._rate(trainer)}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the speed measurement."""
        self._judging.restart()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the speed measurement."""
        self._judging.restart()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print the progress of validation, if a line is due."""
        self._batch_done("Validation", pl_module, batch_idx, sum(trainer.num_val_batches))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print the progress of the test, if a line is due."""
        self._batch_done("Test", pl_module, batch_idx, sum(trainer.num_test_batches))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the results of a validation during training."""
        if in_training(trainer) and not trainer.sanity_checking:
            found = "".join(f", {name} {decimal(float(value))}" for name, value in _of(trainer, "val/").items())
            self._say(f"{self._place(trainer)}{self._loss(trainer)}{found}{self._rate(trainer)}")

    def _batch_done(self, what: str, pl_module: LightningModule, batch_idx: int, total: int | float) -> None:
        if isinstance(pl_module, Ranker) and pl_module.tells_progress:
            return
        if (done := batch_idx + 1) < total and self._judging.due():
            seconds = self._judging.seconds
            of = "" if total == float("inf") else f" of {total:,}"
            self._say(f"{what}: {done:,}{of} batches, {seconds:,.0f} s{self._judging.left(done, total)}")

    def _place(self, trainer: Trainer) -> str:
        epochs, steps = trainer.max_epochs or -1, trainer.estimated_stepping_batches
        of_epochs = f" of {epochs:,}" if epochs > 0 else ""
        of_steps = "" if steps == float("inf") else f" of {int(steps):,}"
        return f"Epoch {trainer.current_epoch + 1:,}{of_epochs}, step {trainer.global_step:,}{of_steps}"

    def _loss(self, trainer: Trainer) -> str:
        losses = "".join(f", loss {decimal(float(value))}" for value in _of(trainer, "train/loss").values())
        return f"{losses}, lr {short(trainer.optimizers[0].param_groups[0]['lr'], 3)}"

    def _rate(self, trainer: Trainer) -> str:
        done = trainer.global_step - self._first_step
        left = self._training.left(done, trainer.estimated_stepping_batches - self._first_step)
        return f", {self._training.rate(done)} steps/s{left}" if done else ""

    def _say(self, line: str) -> None:
        if self._enabled:
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def _of(trainer: Trainer, prefix: str) -> Mapping[str, Any]:
    """The logged values whose names have this prefix."""
    return {name: value for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
