"""Resuming: makes a run that was stopped at any point end with the same results as without the stop."""

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
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from rankers.base import Ranker
from rankers.checkpoint import read_checkpoint, with_room, write_checkpoint
from ranking.stores.files import write_file
from registry import ConfigError, RunConfig
from registry.errors import shown

BEST, LAST = "best.ckpt", "last.ckpt"
SAVED = ".saved"
"""An empty file in the folder of a run that has written `last.ckpt`, to tell a lost one from one that never was."""

MAY_CHANGE = (
    "callbacks",
    "imports",
    "logger",
    "references",
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


# The parts of a Lightning checkpoint that a run needs to resume.
_STATE = ("callbacks", "loops", "lr_schedulers", "optimizer_states", "state_dict")


class InterruptedRunError(Exception):
    """A signal stopped the run, after the run was saved.

    Args:
        message: The message for the user.
        signum: The number of the signal.
    """

    def __init__(self, message: str = "", signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status for the signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint to a temporary file beside it and then renames it, so it is never half written.

    Lightning writes to the system's temporary folder and then moves the file. If that folder is on another disk, the
    move is a copy, and a kill during the copy would replace the last good checkpoint by half of the new one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(place, checkpoint)


def check_changes(before: RunConfig, after: RunConfig) -> None:
    """Refuse overrides that a resumed run cannot accept.

    Args:
        before: The config that the run started with.
        after: This config with the overrides given to `--resume`.

    Raises:
        ConfigError: For the first option that differs but must not change.
    """
    old, new = (dict(_flat(dataclasses.asdict(config))) for config in (before, after))
    for options in (old, new):
        if not options.get("trainer", True):  # a block without any option
            del options["trainer"]
    for option in {**old, **new}:
        if old.get(option) != new.get(option) and not option.startswith(MAY_CHANGE):
            problem = f"cannot change in a run that goes on: it began with {shown(old.get(option))}."
            cure = f"leave it out, or begin a new run; what may change: {', '.join(MAY_CHANGE)}"
            raise ConfigError(option, problem, cure=cure)


def check_resume_point(folder: Path, ranker: Ranker[Any], options: Mapping[str, Any]) -> None:
    """Check everything that a run needs to resume, before any of its files is overwritten.

    Args:
        folder: The run's folder.
        ranker: The ranker that the run's config makes.
        options: The options under `trainer:`.

    Raises:
        ConfigError: If `last.ckpt` or `best.ckpt` is damaged, missing or from another ranker, or if the run has already
            been trained for longer than the options allow.
    """
    path = folder / LAST
    cure = "copy it back, or begin a new run with the config.yaml of this one"
    if not path.is_file():
        if ranker.is_trained and any((folder / name).exists() for name in (SAVED, "metrics.json")):
            raise ConfigError(str(path), "is missing: without it the run would begin again.", cure=cure)
        return
    checkpoint = read_checkpoint(path)
    if missing := [name for name in _STATE if name not in checkpoint]:
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
        if not (folder / BEST).is_file():
            raise ConfigError(str(folder / BEST), "is missing: it has the weights that are the best so far.", cure=cure)
        read_checkpoint(folder / BEST)


def _flat(options: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each option with its dotted path; a list counts as one option."""
    if isinstance(options, dict) and options:
        for name, value in options.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, options


class ResumePoint(Checkpoint):
    """Saves `last.ckpt` at intervals and after each epoch; Ctrl-C and SIGTERM also save it, then stop the run.

    The checkpoint is saved only after an optimizer step, because accumulated gradients are not saved. It is not saved
    between the last step of an epoch and its validation. At the end of an epoch, Lightning calls a `Checkpoint` after
    all other callbacks, so that what `early_stopping` has counted is saved too.

    Args:
        run_dir: The run's folder, for `last.ckpt`.
        seconds: Seconds between two saves.
    """

    def __init__(self, run_dir: Path, seconds: float) -> None:
        self.path, self._seconds = run_dir / LAST, seconds
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._received: int | None = None
        self._before: dict[int, Any] = {}
        self._loader_state: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle the first Ctrl-C or SIGTERM; a second one stops the process immediately, as usual."""
        self._saved_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._receive) for each in (signal.SIGINT, signal.SIGTERM)}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let signals stop a validation after training immediately, because everything is saved."""
        self._stop_at_once(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let signals stop a test immediately, because everything is saved."""
        self._stop_at_once(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the position in the batches; allow a moved run folder and a changed `patience`.

        Lightning does not save that training was stopped early, so this is decided again.
        """
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
                trainer.should_stop = trainer.should_stop or state["wait_count"] >= callback.patience

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the batches to the saved position.

        Lightning does this only if nothing has asked for the number of steps before, but every schedule asks for it.
        """
        if self._loader_state is not None:
            assert trainer.train_dataloader is not None
            trainer.train_dataloader.load_state_dict(self._loader_state)
            self._loader_state = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a save is due or a signal arrived."""
        stepped = trainer.global_step > self._saved_step
        due = time.monotonic() - self._saved_at >= self._seconds
        stop = trainer.strategy.reduce_boolean_decision(self._received is not None or due, all=False)
        if stop and stepped and not trainer.is_last_batch and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after each epoch and its validation."""
        self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the previous handlers of Ctrl-C and SIGTERM."""
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
        if trainer.is_global_zero and not (mark := self.path.with_name(SAVED)).exists():
            write_file(mark, b"", cure=with_room(self.path.parent))
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        if trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            raise InterruptedRunError(signum=self._received or signal.SIGINT)

    def _receive(self, signum: int, frame: Any) -> None:
        self._received = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)


def _moved(state: dict[str, Any], folder: str) -> dict[str, Any]:
    """The state of a ModelCheckpoint, with its paths changed to the run's current folder."""
    before = state["dirpath"]

    def path(old: str) -> str:
        return folder + old.removeprefix(before) if old.startswith(before) else old

    paths = {name: path(value) for name, value in state.items() if isinstance(value, str) and name != "monitor"}
    return {**state, **paths, "best_k_models": {path(old): score for old, score in state["best_k_models"].items()}}


class StepSeed(Callback):
    """Makes the randomness of each step, such as dropout, a function of only (seed, step, process).

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed torch on every device."""
        epoch = trainer.current_epoch
        torch.manual_seed(hash((self._seed, epoch, batch_idx, trainer.global_rank)) % 2**63)
