"""Processes: coordinates the processes of one run that torchrun, srun or another launcher has started."""

import fcntl
import glob
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import ParallelStrategy

from ranking.stores.files import write_file
from registry import ConfigError
from training.trainer import build_trainer

RUN_DIR = "RANKERS_RUN_DIR"
"""Names the run's folder to processes that Lightning starts by itself."""

_LOOKS_EVERY = 1.0  # seconds between two checks for the file that another process builds
_LOOKS_BEFORE_BELIEF = 5
_LAUNCH = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
"""What the processes of one launch have in common, and those of others mostly have not."""


class Processes:
    """One of the processes of a run.

    If Lightning starts the processes, only one process exists until training begins, so everything before runs once.
    Other launchers start all processes at once, and each process runs everything; then the first one decides.

    Args:
        options: The options under `trainer:`.

    Raises:
        ConfigError: If the launcher has started several processes but the trainer uses only one.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        # Lightning's FSDP2 joins the processes only once it has a ranker; DDP joins the same ones without.
        joins = {**options, "strategy": "ddp"} if options.get("strategy") == "fsdp2" else options
        strategy = build_trainer(joins).strategy
        several = isinstance(strategy, ParallelStrategy) and strategy.world_size > 1
        environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
        if not several and TorchElasticEnvironment.detect() and (count := int(os.environ["WORLD_SIZE"])) > 1:
            problem = f"torchrun has started {count} processes, and the trainer uses one."
            raise ConfigError("trainer.devices", problem, cure=f"trainer.devices={count} trainer.strategy=ddp")
        self._strategy = strategy
        self._together = bool(
            several and environment and environment.creates_processes_externally and RUN_DIR not in os.environ
        )
        self.is_first = not (self._together and environment and environment.global_rank())

    def wait_for(self, path: Path) -> None:
        """Wait until the first process has built this path.

        Raises:
            ConfigError: If the first process has reported a failure, or was killed on this machine.
        """
        word, sign, seen = _beside(path, "failed"), _beside(path, "building"), 0
        while not self.is_first and not path.exists():
            seen = seen + 1 if word.exists() or _is_abandoned(sign) else 0
            # The first process removes the files of an earlier run, but it may have started later than this one.
            if seen == _LOOKS_BEFORE_BELIEF:
                if not word.exists():  # also for the processes on other machines
                    write_file(word, b"it was killed.")
                    sign.unlink(missing_ok=True)
                problem = f"the first process failed to build it: {word.read_text(errors='replace')}"
                raise ConfigError(str(path), problem, cure="see what the first process printed")
            time.sleep(_LOOKS_EVERY)

    @contextmanager
    def telling_failure(self, path: Path) -> Iterator[None]:
        """In the first process: if building this path fails, report it to the processes that wait for it."""
        word = _beside(path, "failed")
        if not (self._together and self.is_first):
            yield
            return
        with suppress(OSError):
            for old in word.parent.glob(f"{glob.escape(path.name)}.failed-*"):
                old.unlink()
        try:
            with _sign(_beside(path, "building")):
                yield
        except BaseException as error:
            with suppress(OSError):
                word.parent.mkdir(parents=True, exist_ok=True)
                write_file(word, (str(error) or type(error).__name__).encode(errors="replace"))
            raise

    def decided(self, decide: Callable[[], str]) -> str:
        """Return the first process's decision in all processes."""
        if not self._together:
            return decide()
        self._strategy.setup_environment()  # Lightning calls this too; only the first call has an effect
        return self._strategy.broadcast(decide() if self.is_first else "")


@contextmanager
def _sign(sign: Path) -> Iterator[None]:
    """Hold a locked file with this machine's name; a killed process loses the lock but leaves the file."""
    try:
        sign.parent.mkdir(parents=True, exist_ok=True)
        file = sign.open("w")
    except OSError:  # building the path will fail too, and says why
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
            print(socket.gethostname(), file=file, end="", flush=True)
        try:
            yield
        finally:
            sign.unlink(missing_ok=True)


def _is_abandoned(sign: Path) -> bool:
    """Whether a process on this machine made this file and has ended; locks may be unknown to other machines."""
    try:
        with sign.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return file.read() == socket.gethostname()
    except OSError:  # no such file, or it is locked
        return False


def _beside(path: Path, state: str) -> Path:
    """The file in which the first process of this launch says that it builds the path, or that it has failed."""
    launch = hashlib.sha256("\0".join(os.environ.get(name, "") for name in _LAUNCH).encode()).hexdigest()[:8]
    return path.with_name(f"{path.name}.{state}-{launch}")
