"""Trainer: Lightning's, with every option under `trainer:` checked, and quiet where it only greets."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ranking.precision import announce_dtype, device_named, resolve_dtype
from registry import ConfigError, schema
from training.resuming import WholeCheckpoints

DEFAULTS: dict[str, Any] = {"num_sanity_val_steps": 0, "enable_model_summary": False}
NOT_ZERO = (
    "accumulate_grad_batches",
    "log_every_n_steps",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
)
SET_BY_THE_RUN = ("logger", "callbacks", "default_root_dir", "use_distributed_sampler")


def build_trainer(
    options: Mapping[str, Any],
    *,
    loggers: Sequence[Any] = (),
    callbacks: Sequence[Callback] = (),
    folder: Path | None = None,
) -> Trainer:
    """A Trainer.

    Args:
        options: What stands under `trainer:`.
        loggers: Where it logs to.
        callbacks: What runs beside it.
        folder: The run's.

    Raises:
        ConfigError: For an unknown option, a value that does not fit, or hardware that is not there.
    """
    _quiet()
    for option in SET_BY_THE_RUN:
        if option in options:
            cure = "use the top-level keys logger, callbacks and runs"
            raise ConfigError(f"trainer.{option}", "is set by the run itself.", cure=cure)
    given = {**DEFAULTS, **options}
    given |= resolve_precision(given)
    bound = schema.bind(Trainer, given, "trainer")
    if asked := given.get("precision"):
        announce_dtype("trainer.precision", str(asked), str(asked), "trainer.precision=auto", device_of(given))
    for option in NOT_ZERO:
        if (value := bound[option]) is not None and value <= 0:
            raise ConfigError(f"trainer.{option}", f"has to be above 0, got {value}.")
    try:
        trainer = Trainer(
            **{key: bound[key] for key in given},
            logger=list(loggers),
            callbacks=list(callbacks),
            default_root_dir=folder,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ConfigError("trainer", str(error)) from error
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    return trainer


def device_of(options: Mapping[str, Any]) -> torch.device:
    """Where a trainer with these options computes."""
    return torch.device("cpu") if options.get("accelerator") == "cpu" else device_named()


def resolve_precision(options: Mapping[str, Any]) -> dict[str, Any]:
    """A trainer's options with what `precision: auto` stands for: bf16-mixed on hardware that has it, else 32-true."""
    if options.get("precision") != "auto":
        return dict(options)
    device = device_of(options)
    precision = "bf16-mixed" if resolve_dtype("auto", device) == "bfloat16" else "32-true"
    announce_dtype("trainer.precision", "auto", precision, "", device)
    return {**options, "precision": precision}


def _quiet() -> None:
    """Keep Lightning's greetings off the screen, and advice that is wrong here: a batch is one gather."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        "Checkpoint directory .* exists and is not empty",
        ".*isinstance.treespec, LeafSpec.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message=message)
