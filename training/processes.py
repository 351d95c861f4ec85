"""Processes: several of them as one run, where torchrun, srun or the like has started them."""

import glob
import hashlib
import os
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

_LOOKS_EVERY = 1.0  # seconds between two looks for what another process builds
_LOOKS_BEFORE_BELIEF = 5
_LAUNCH = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
"""What the processes of one launch have in common, and those of others mostly have not."""


class Processes:
    """One process among those of its run.

    A run whose processes Lightning starts has one process until training begins: everything before is done once. Other
    launchers start all processes at once, and each runs everything; then the first one decides.

    Args:
        options: What stands under `trainer:`.

    Raises:
        ConfigError: If the launcher has started several processes and the trainer is to use one.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        strategy = build_trainer(options).strategy
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
        """Wait until the first process has built what will stand there.

        Raises:
            ConfigError: If it has left word that it failed.
        """
        word, seen = _word(path), 0
        while not self.is_first and not path.exists():
            seen = seen + 1 if word.exists() else 0
            # The word of an earlier run is removed by this one's first process, which may have started later.
            if seen == _LOOKS_BEFORE_BELIEF:
                problem = f"the first process failed to build it: {word.read_text(errors='replace')}"
                raise ConfigError(str(path), problem, cure="see what the first process printed")
            time.sleep(_LOOKS_EVERY)

    @contextmanager
    def telling_failure(self, path: Path) -> Iterator[None]:
        """In the first process: if it fails, leave word for those that wait for what it was to build there."""
        word = _word(path)
        if not (self._together and self.is_first):
            yield
            return
        with suppress(OSError):
            for old in word.parent.glob(f"{glob.escape(path.name)}.failed-*"):
                old.unlink()
        try:
            yield
        except BaseException as error:
            with suppress(OSError):
                word.parent.mkdir(parents=True, exist_ok=True)
                write_file(word, (str(error) or type(error).__name__).encode(errors="replace"))
            raise

    def decided(self, decide: Callable[[], str]) -> str:
        """What the first process decides, in all of them."""
        if not self._together:
            return decide()
        self._strategy.setup_environment()  # what Lightning does as well before training; it is done once
        return self._strategy.broadcast(decide() if self.is_first else "")


def _word(path: Path) -> Path:
    """Where the first process of this launch says that it failed to build what was to stand at the path."""
    launch = hashlib.sha256("\0".join(os.environ.get(name, "") for name in _LAUNCH).encode()).hexdigest()[:8]
    return path.with_name(f"{path.name}.failed-{launch}")
