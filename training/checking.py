"""Checking: what is wrong with a run that its schema cannot see, found before anything is built or written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ranking.metrics import metric_name
from registry import CALLBACKS, LOSSES, METRICS, OPTIMIZERS, RANKERS, SCHEDULES, ConfigError, RunConfig
from training.trainer import build_trainer

_SEEDS = 2**32


def check(config: RunConfig) -> None:
    """Refuse trainer options, losses, metrics, optimizers, schedules and callbacks that could not work.

    Raises:
        ConfigError: For the first mistake.
    """
    build_trainer(config.trainer)
    _check_ranker(config)
    metrics = [f"val/{metric_name(node)}" for node in config.ranker["metrics"]]
    if config.monitor not in metrics:
        problem = f"{config.monitor!r} is not among what ranker.metrics reports."
        raise ConfigError("monitor", problem, given=config.monitor, known=metrics)
    for place, node in enumerate(config.callbacks):
        monitor = getattr(CALLBACKS.build(node, path=f"callbacks[{place}]"), "monitor", None)
        if monitor not in (None, "train/loss", *metrics):
            problem = f"{monitor!r} is not logged."
            raise ConfigError(f"callbacks[{place}].monitor", problem, given=monitor, known=metrics)
    if (config.features is None) == (config.datamodule.get("path") is None):
        problem = "which store?" if config.features is None else "there is a `features:` block as well: which store?"
        cure = "name a store there, or say in a `features:` block how to build one"
        raise ConfigError("datamodule.path", problem, cure=cure)
    if not 0 <= config.seed < _SEEDS:
        raise ConfigError("seed", f"has to be from 0 to {_SEEDS - 1}, got {config.seed}.")
    if any(folder.exists() and not folder.is_dir() for folder in (Path(config.runs), *Path(config.runs).parents)):
        raise ConfigError("runs", f"{config.runs} cannot be a folder: there is a file of that name.")


def _check_ranker(config: RunConfig) -> None:
    """Try loss and metrics on one group, optimizer and schedule on one weight."""
    labels, mask = torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool)
    loss = config.ranker["loss"] or RANKERS.get(config.ranker["name"]).default_loss  # type: ignore[attr-defined]
    with _refused_as("ranker.loss"):
        LOSSES.bind(loss, "ranker.loss")(labels.clone(), labels, mask)
    for place, node in enumerate(config.ranker["metrics"]):
        with _refused_as(f"ranker.metrics[{place}]"):
            METRICS.bind(node)(labels.clone(), labels, mask)
    optimizer = OPTIMIZERS.build(config.ranker["optimizer"], [nn.Parameter(labels)], path="ranker.optimizer")
    SCHEDULES.build(config.ranker["schedule"], optimizer, 100, path="ranker.schedule")


@contextmanager
def _refused_as(path: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ConfigError(path, f"{error}.") from error
