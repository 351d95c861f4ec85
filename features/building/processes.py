"""Devices: long work that consists of many pieces, done in several processes.

concurrent.futures.ProcessPoolExecutor was tried: it does not say which process was killed and by what, an interrupt
waits until the pieces at work are done, and its processes live on when this one is killed.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException, start_processes

from ranking.stores.files import StoreError
from registry import ConfigError

_HEARD_EVERY = 0.1


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
    messages = get_context("spawn").SimpleQueue()
    arguments = (work.on("cpu"), numbers, devices, gpus, messages, os.getpid())
    processes: Any = start_processes(_do_share, arguments, devices, join=False)
    try:
        while not processes.join(_HEARD_EVERY):
            _hear(messages, report)
        _hear(messages, report)
    except ProcessException as error:
        _hear(messages, report)
        if isinstance(error, ProcessRaisedException):
            raise
        cure = "run the command again, it goes on; if memory ran out, with fewer devices or smaller batches"
        raise StoreError(kept_in, f"{error}.", cure=cure) from error
    finally:
        for process in processes.processes:
            process.kill()
            process.join()


def _do_share(
    place: int, work: Work, numbers: Sequence[int], devices: int, gpus: bool, messages: Any, parent: int
) -> None:
    """Do every `devices`th piece, in a process of its own."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    if gpus:
        torch.cuda.set_device(place)

    def report(*counts: int) -> None:
        if os.getppid() != parent:
            # Else it would write on beside the process that goes on with the build.
            os._exit(1)
        messages.put(counts)

    work = work.on(f"cuda:{place}" if gpus else "cpu")
    try:
        for number in numbers[place::devices]:
            work.do(number, report)
    except ConfigError as error:
        messages.put(error)
        raise


def _hear(messages: Any, report: Callable[..., None]) -> None:
    """Pass on what processes have said: counts, or the error of one, which is raised."""
    while not messages.empty():
        message = messages.get()
        if isinstance(message, ConfigError):
            raise message from None
        report(*message)
