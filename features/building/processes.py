"""Devices: long work that consists of many pieces, done in several processes."""

import logging
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from operator import itemgetter
from queue import Empty
from typing import Any, Protocol, runtime_checkable

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException
from torch.utils.data import DataLoader

from ranking.stores.files import StoreError
from registry import ConfigError


@runtime_checkable
class Work(Protocol):
    """Work in numbered pieces; it is pickled, so what it has loaded is best left out of `on`'s result."""

    def on(self, device: str) -> "Work":
        """The same work, done on a device."""
        ...

    def do(self, number: int, report: Callable[..., None]) -> None:
        """Do a piece, and keep its result where the process that has started this one finds it."""
        ...


def share_out(
    work: Work, numbers: Sequence[int], devices: int, report: Callable[..., None], *, gpus: bool, kept_in: str
) -> None:
    """Have pieces of work done in several processes, one GPU each where there are any.

    Args:
        work: What to do.
        numbers: Which pieces.
        devices: How many processes.
        report: Called in this process with whatever the pieces report.
        gpus: Whether GPUs are used if there are any.
        kept_in: Where results are kept, for what an error says.

    Raises:
        ConfigError: If there are fewer GPUs than processes, or as a process raised it.
        StoreError: If a process was killed.
    """
    gpus = gpus and torch.cuda.is_available()
    if gpus and devices > torch.cuda.device_count():
        problem = f"{devices} is more than the {torch.cuda.device_count()} GPUs there are."
        raise ConfigError("features.devices", problem, cure="fewer devices, or cpu as the model's device")
    _be_quiet()
    messages = get_context("spawn").Queue()
    trainer = Trainer(
        accelerator="gpu" if gpus else "cpu",
        devices=devices,
        # Processes wait for the slowest one at the end, and send one another no tensors.
        strategy=DDPStrategy(start_method="spawn", process_group_backend="gloo", timeout=timedelta(days=30)),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with _Listener(messages, report) as listener:
        try:
            trainer.predict(_Worker(work.on("cpu"), numbers, messages, os.getpid()), return_predictions=False)
        except SystemExit as interrupted:
            raise KeyboardInterrupt from interrupted
        except ProcessException as error:
            listener.raise_received()
            if isinstance(error, ProcessRaisedException):
                raise
            cure = "run the command again, it goes on; if memory ran out, with fewer devices or smaller batches"
            raise StoreError(kept_in, f"{error}.", cure=cure) from error


class _Worker(LightningModule):
    """Does every `world_size`th piece."""

    def __init__(self, work: Work, numbers: Sequence[int], messages: Any, parent: int) -> None:
        super().__init__()
        self.work, self.numbers, self.messages, self.parent = work, list(numbers), messages, parent

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The first thing that happens in a new process.
        _be_quiet()
        super().__setstate__(state)

    def setup(self, stage: str) -> None:
        self.work = self.work.on(str(self.trainer.strategy.root_device))

    def predict_dataloader(self) -> DataLoader[int]:
        own = self.numbers[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(own, collate_fn=itemgetter(0))  # type: ignore[arg-type]

    def predict_step(self, number: int) -> int:
        try:
            self.work.do(int(number), self._report)
        except ConfigError as error:
            self.messages.put(error)
            raise
        return number

    def _report(self, *counts: int) -> None:
        if os.getppid() != self.parent:
            # Else it would write on beside the process that goes on with the build.
            os._exit(1)
        self.messages.put(counts)


class _Listener:
    """Hears in a thread what processes say: counts, and an error."""

    def __init__(self, messages: Any, report: Callable[..., None]) -> None:
        self._messages, self._report = messages, report
        self._received: ConfigError | None = None
        self._done = threading.Event()
        # It says nothing to the processes: one that was killed may hold the lock for ever.
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def raise_received(self) -> None:
        """Raise the error of a process, if it said which."""
        self._stop()
        if self._received:
            raise self._received from None

    def __enter__(self) -> "_Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _listen(self) -> None:
        while True:
            try:
                message = self._messages.get(timeout=0.1)
            except Empty:
                if self._done.is_set():
                    return
                continue
            if isinstance(message, ConfigError):
                self._received = message
            else:
                self._report(*message)

    def _stop(self) -> None:
        self._done.set()
        self._thread.join(timeout=5)


def _be_quiet() -> None:
    """Keep Lightning's greetings off the screen, and advice that is wrong here: the pieces take the time."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*isinstance.treespec, LeafSpec.*"):
        warnings.filterwarnings("ignore", message)
