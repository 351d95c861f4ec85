"""Loggers by name; all of them write into the run's folder."""

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
    """One row per logged step in `csv/version_0/metrics.csv`; each time the run resumes, the next version number.

    Args:
        run_dir: The run's folder.
    """
    return CSVLogger(run_dir, name="csv")


@LOGGERS.register("tensorboard")
def tensorboard(run_dir: Text) -> TensorBoardLogger:
    """Event files for `tensorboard --logdir runs`; requires the extra `tensorboard`.

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
    """Weights & Biases: online if a key is configured, else offline; it never prompts for a key.

    Args:
        run_dir: The run's folder; its name becomes the name of the W&B run.
        project: The W&B project.
        entity: The W&B user or team; null for the default of the key.
        group: The W&B group, for example to group runs of one experiment with different seeds.
        tags: W&B tags, to filter runs.
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
        id=wandb_id(folder),
        save_dir=run_dir,
        mode=mode,
        resume="allow",
        settings={"silent": True},
    )
    # Lightning always passes this option to W&B, which prints a warning even if it is None.
    logger._wandb_init.pop("anonymous", None)
    return logger


def wandb_id(folder: Path) -> str:
    """The id of a run's W&B run: the one that it had so far, else config name and time.

    A run of a sweep gets its id from the sweep, and keeps it when it is resumed outside.

    Args:
        folder: The run's folder.
    """
    logged = sorted((folder / "wandb").glob("*run-*-*"), key=lambda each: each.name.partition("run-")[2])
    if logged:
        return logged[0].name.partition("run-")[2].partition("-")[2]
    config = re.sub(rf"[{re.escape(_REFUSED_BY_WANDB)}\s]+", "-", folder.parent.name)
    return f"{config[: _LONGEST_ID - len(folder.name) - 1]}-{folder.name}"


def has_wandb_key() -> bool:
    """Whether a W&B key is in the environment, or in the user's netrc file for the server in use."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return file.is_file() and netrc.netrc(str(file)).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False
