"""Resuming: what makes a run that was stopped anywhere end as if it had not been."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO

LAST = "last.ckpt"


class InterruptedRunError(Exception):
    """The user pressed Ctrl-C, and the run was saved."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints beside their place, then renames, so that one is whole or the one before it stays.

    Lightning writes to the system's temporary folder and moves; where that is another disk, to move is to copy, and a
    kill meanwhile would leave half a checkpoint in place of the last good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write one."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.partial")
        torch.save(checkpoint, temporary)
        temporary.replace(place)


class ResumePoint(Callback):
    """Saves `last.ckpt` every so often and after each epoch; the first Ctrl-C saves it too, then stops the run.

    It is saved only after an optimizer step, since gradients that are still being accumulated are not kept, and not
    between the last step of an epoch and its validation.

    Args:
        run_dir: Where to.
        seconds: How long after the last save comes the next.
    """

    def __init__(self, run_dir: Path, seconds: float) -> None:
        self.path, self._seconds = run_dir / LAST, seconds
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._pressed = False
        self._before: Any = None
        self._loader_state: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C, once; the second one stops at once, as it always does."""
        self._saved_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._press)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember how far the batches had come."""
        states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
        self._loader_state = states[0] if states else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the batches on to there.

        Lightning does so only where nothing asked for the number of steps before, and every schedule does.
        """
        if self._loader_state is not None:
            assert trainer.train_dataloader is not None
            trainer.train_dataloader.load_state_dict(self._loader_state)
            self._loader_state = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to, or if asked to stop."""
        stepped = trainer.global_step > self._saved_step
        due = time.monotonic() - self._saved_at >= self._seconds
        stop = trainer.strategy.reduce_boolean_decision(self._pressed or due, all=False)
        if stop and stepped and not trainer.is_last_batch and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after each epoch and its validation."""
        self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        if trainer.strategy.reduce_boolean_decision(self._pressed, all=False):
            raise InterruptedRunError

    def _press(self, signum: int, frame: Any) -> None:
        self._pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


class StepSeed(Callback):
    """Makes the randomness of each step, such as dropout, a function of (seed, step, process) alone.

    Args:
        seed: The run's.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed torch, on every device."""
        epoch = trainer.current_epoch
        torch.manual_seed(hash((self._seed, epoch, batch_idx, trainer.global_rank)) % 2**63)
