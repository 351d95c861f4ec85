"""Loggers by name, all writing below the run's folder."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlparse

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from registry import LOGGERS


@LOGGERS.register("csv")
def csv(run_dir: str) -> CSVLogger:
    """One row a logged step in `csv/version_0/metrics.csv`, version_1 after the first resuming, and so on.

    Args:
        run_dir: The run's folder.
    """
    return CSVLogger(run_dir, name="csv")


@LOGGERS.register("tensorboard")
def tensorboard(run_dir: str) -> TensorBoardLogger:
    """Event files for `tensorboard --logdir runs`; needs the extra `tensorboard`.

    Args:
        run_dir: The run's folder.
    """
    return TensorBoardLogger(run_dir, name="tensorboard", version="", default_hp_metric=False)


@LOGGERS.register("wandb")
def wandb(
    run_dir: str,
    project: str = "rankers",
    entity: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
) -> WandbLogger:
    """Weights & Biases: online where a key is configured, else offline; it never asks.

    Args:
        run_dir: The run's folder, whose name becomes the run's.
        project: W&B project.
        entity: W&B user or team; null for the key's own.
        group: Puts runs together, such as the seeds of one experiment.
        tags: For filtering.
    """
    folder = Path(run_dir)
    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "online" and not has_wandb_key():
        mode = "offline"
    return WandbLogger(
        project=project,
        entity=entity,
        group=group,
        tags=tags,
        name=f"{folder.parent.name}/{folder.name}",
        id=f"{folder.parent.name}-{folder.name}",
        save_dir=run_dir,
        mode=mode,
        resume="allow",
        settings={"silent": True},
    )


def has_wandb_key() -> bool:
    """True if a W&B key is in the environment or, for the server in use, in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return file.is_file() and netrc.netrc(str(file)).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False
