"""The yaml of a short run on a store of groups, and runs that several tests read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry import load_config
from registry.config import merge, to_yaml

if TYPE_CHECKING:
    from training.run import Run


def write_run_config(store: Path, folder: Path, file: str = "run.yaml", **changes: Any) -> Path:
    """Write it into a folder, where its runs will be; what is given is merged over it, as overrides are."""
    usual = {
        "ranker": {"name": "list_ranker", "projection": {"name": "linear", "dim": 8}, "temperature": 0.2},
        "datamodule": {"name": "grouped_features", "path": str(store), "batch_size": 32},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "runs": str(folder / "runs"),
    }
    (folder / file).write_text(to_yaml(merge(usual, changes)))
    return folder / file


def train_once(file: Path, *overrides: str) -> Run:
    """A run for a fixture of a whole module: its tests read it, and change nothing of it."""
    from training.run import train  # takes seconds, which tests without runs need not wait

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("RANKERS_RUN_DIR", raising=False)
        leave_out_pictures(patch)
        return train(load_config(file, overrides), file.stem)


def leave_out_pictures(patch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures of run pages, which take longer than tiny runs."""
    for page in ("run_page", "result_figures"):
        patch.setattr(f"training.pages.{page}.as_svg", lambda figure, name: "<svg/>")
