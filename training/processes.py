"""Processes: several of them as one run, where torchrun, srun or the like has started them."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import ParallelStrategy

from registry import ConfigError
from training.trainer import build_trainer

RUN_DIR = "RANKERS_RUN_DIR"
"""Names the run's folder to processes that Lightning starts by itself."""

_LOOKS_EVERY = 1.0  # seconds between two looks for what another process builds


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
        """Wait until the first process has built what will stand there."""
        while not self.is_first and not path.exists():
            time.sleep(_LOOKS_EVERY)

    def decided(self, decide: Callable[[], str]) -> str:
        """What the first process decides, in all of them."""
        if not self._together:
            return decide()
        self._strategy.setup_environment()  # what Lightning does as well before training; it is done once
        return self._strategy.broadcast(decide() if self.is_first else "")
