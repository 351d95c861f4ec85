"""Resuming: what makes a run that was stopped anywhere end as if it had not been."""

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from rankers.base import Ranker
from rankers.checkpoint import read_checkpoint, write_checkpoint
from registry import ConfigError, RunConfig
from registry.errors import shown

BEST, LAST = "best.ckpt", "last.ckpt"

MAY_CHANGE = (
    "callbacks",
    "imports",
    "logger",
    "ranker.backbone.dtype",
    "save_every",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.num_nodes",
    "trainer.strategy",
)
"""Options that `--resume` may change; a schedule follows a new number of steps from where it is."""


# What a checkpoint of Lightning holds that a run needs to go on.
_STATE = ("callbacks", "loops", "lr_schedulers", "optimizer_states", "state_dict")


class InterruptedRunError(Exception):
    """A signal stopped the run, and it was saved.

    Args:
        message: What to tell the user.
        signum: The signal.
    """

    def __init__(self, message: str = "", signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status of a process that the signal stopped: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints beside their place, then renames, so that one is whole or the one before it stays.

    Lightning writes to the system's temporary folder and moves; where that is another disk, to move is to copy, and a
    kill meanwhile would leave half a checkpoint in place of the last good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write one."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(place, checkpoint)


def check_changes(before: RunConfig, after: RunConfig) -> None:
    """Refuse overrides that would make a resumed run another run.

    Args:
        before: The config that the run began with.
        after: The same with the overrides given to `--resume`.

    Raises:
        ConfigError: For the first option that differs and cannot change.
    """
    old, new = (dict(_flat(dataclasses.asdict(config))) for config in (before, after))
    for option in {**old, **new}:
        if old.get(option) != new.get(option) and not option.startswith(MAY_CHANGE):
            problem = f"cannot change in a run that goes on: it began with {shown(old.get(option))}."
            cure = f"leave it out, or begin a new run; what may change: {', '.join(MAY_CHANGE)}"
            raise ConfigError(option, problem, cure=cure)


def check_resume_point(folder: Path, ranker: Ranker[Any], options: Mapping[str, Any]) -> None:
    """Look through what a run needs to go on, before anything of it is overwritten.

    Args:
        folder: The run's.
        ranker: As its config makes it.
        options: What stands under `trainer:`.

    Raises:
        ConfigError: If `last.ckpt` or `best.ckpt` is damaged, missing or another ranker's, or if the run has been
            trained for longer than the options say.
    """
    path = folder / LAST
    if not path.is_file():
        return
    checkpoint = read_checkpoint(path)
    if missing := [name for name in _STATE if name not in checkpoint]:
        cure = "begin a new run with the config.yaml of this one"
        raise ConfigError(str(path), f"holds no {missing[0]}: a run cannot go on from it.", cure=cure)
    expected, found = (
        {name: tuple(weight.shape) for name, weight in weights.items()}
        for weights in (ranker.state_dict(), checkpoint["state_dict"])
    )
    if differing := sorted(set(expected.items()) ^ set(found.items())):
        name = differing[0][0]
        problem = f"its weight {name} is {found.get(name)}, and the ranker's is {expected.get(name)}."
        raise ConfigError(str(path), problem, cure="copy the run's own last.ckpt back")
    before, now = (dict(_flat(each["ranker"])) for each in (checkpoint["ranker"], ranker.description()))
    for option in before.keys() & now.keys():
        if option.endswith("dtype") and before[option] != now[option]:
            problem = f"is {now[option]} on this machine; the run began in {before[option]}."
            raise ConfigError(f"ranker.{option}", problem, cure=f"ranker.{option}={before[option]}")
    done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"], checkpoint["global_step"]
    for option, count in zip(("max_epochs", "max_steps"), done, strict=True):
        if (most := options.get(option)) not in (None, -1) and most < count:
            problem = f"{most:,} is less than the {count:,} that the run has been trained for."
            raise ConfigError(f"trainer.{option}", problem, cure=f"{count} or more")
    states = [state for key, state in checkpoint["callbacks"].items() if key.startswith(ModelCheckpoint.__name__)]
    if any(state["best_model_path"] for state in states):
        read_checkpoint(folder / BEST)


def _flat(options: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each option with its dotted path; a list is one option."""
    if isinstance(options, dict) and options:
        for name, value in options.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, options


class ResumePoint(Callback):
    """Saves `last.ckpt` every so often and after each epoch; Ctrl-C and SIGTERM save it too, then stop the run.

    It is saved only after an optimizer step, since gradients that are still being accumulated are not kept, and not
    between the last step of an epoch and its validation.

    Args:
        run_dir: Where to.
        seconds: How long after the last save comes the next.
    """

    def __init__(self, run_dir: Path, seconds: float) -> None:
        self.path, self._seconds = run_dir / LAST, seconds
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._received: int | None = None
        self._before: dict[int, Any] = {}
        self._loader_state: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C and SIGTERM, once; the second one stops at once, as it always does."""
        self._saved_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._receive) for each in (signal.SIGINT, signal.SIGTERM)}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop a validation that comes after training at once: all is saved."""
        self._stop_at_once(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop a test at once: all is saved."""
        self._stop_at_once(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember how far the batches had come; let the run's folder have moved, and `patience` have changed."""
        states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
        self._loader_state = states[0] if states else None
        of_callbacks = checkpoint["callbacks"]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if (state := of_callbacks.get(callback.state_key)) is None:
                continue
            if isinstance(callback, ModelCheckpoint):
                of_callbacks[callback.state_key] = _moved(state, str(callback.dirpath))
            elif isinstance(callback, EarlyStopping):
                of_callbacks[callback.state_key] = {**state, "patience": callback.patience}

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
        stop = trainer.strategy.reduce_boolean_decision(self._received is not None or due, all=False)
        if stop and stepped and not trainer.is_last_batch and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after each epoch and its validation."""
        self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C and SIGTERM back."""
        for signum, before in self._before.items():
            signal.signal(signum, before)
        self._before = {}

    def _stop_at_once(self, trainer: Trainer) -> None:
        def stop(signum: int, frame: Any) -> None:
            raise InterruptedRunError(signum=signum)

        if trainer.state.fn != "fit" and threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        if trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            raise InterruptedRunError(signum=self._received or signal.SIGINT)

    def _receive(self, signum: int, frame: Any) -> None:
        self._received = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)


def _moved(state: dict[str, Any], folder: str) -> dict[str, Any]:
    """What a ModelCheckpoint remembers, with the run's folder where it is now."""
    before = state["dirpath"]

    def path(old: str) -> str:
        return folder + old.removeprefix(before) if old.startswith(before) else old

    paths = {name: path(value) for name, value in state.items() if isinstance(value, str) and name != "monitor"}
    return {**state, **paths, "best_k_models": {path(old): score for old, score in state["best_k_models"].items()}}


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
