"""Loggers by name, all writing below the run's folder."""

import netrc
import os
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlparse

from annotated_types import MaxLen, MinLen
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from pydantic import AfterValidator

from registry import LOGGERS
from registry.ranges import Text

_REFUSED_BY_WANDB = r"/\#?%:"
_LONGEST_NAME, _LONGEST_ID, _LONGEST_TAG = 128, 64, 64


def _wandb_project(name: str) -> str:
    if found := sorted(set(name) & set(_REFUSED_BY_WANDB)):
        raise ValueError(f"W&B allows no {' '.join(found)} in it")
    return name


WandbName = Annotated[str, MinLen(1), MaxLen(_LONGEST_NAME)]
WandbProject = Annotated[str, MinLen(1), MaxLen(_LONGEST_NAME), AfterValidator(_wandb_project)]
WandbTag = Annotated[str, MinLen(1), MaxLen(_LONGEST_TAG)]


@LOGGERS.register("csv")
def csv(run_dir: Text) -> CSVLogger:
    """One row a logged step in `csv/version_0/metrics.csv`, version_1 after the first resuming, and so on.

    Args:
        run_dir: The run's folder.
    """
    return CSVLogger(run_dir, name="csv")


@LOGGERS.register("tensorboard")
def tensorboard(run_dir: Text) -> TensorBoardLogger:
    """Event files for `tensorboard --logdir runs`; needs the extra `tensorboard`.

    Args:
        run_dir: The run's folder.
    """
    return TensorBoardLogger(run_dir, name="tensorboard", version="", default_hp_metric=False)


@LOGGERS.register("wandb")
def wandb(
    run_dir: Text,
    project: WandbProject = "rankers",
    entity: Text | None = None,
    group: WandbName | None = None,
    tags: list[WandbTag] | None = None,
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
    logger = WandbLogger(
        project=project,
        entity=entity,
        group=group,
        tags=tags,
        name=f"{folder.parent.name}/{folder.name}"[-_LONGEST_NAME:],
        id=_wandb_id(folder),
        save_dir=run_dir,
        mode=mode,
        resume="allow",
        settings={"silent": True},
    )
    # Lightning always passes it on, and W&B warns of it even where it is None.
    logger._wandb_init.pop("anonymous", None)
    return logger


def _wandb_id(folder: Path) -> str:
    """Config and time of a run, without what W&B refuses in an id."""
    config = re.sub(rf"[{re.escape(_REFUSED_BY_WANDB)}\s]+", "-", folder.parent.name)
    return f"{config[: _LONGEST_ID - len(folder.name) - 1]}-{folder.name}"


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
