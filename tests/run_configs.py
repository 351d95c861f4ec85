"""The yaml of a short run on a store of groups."""

from pathlib import Path
from typing import Any

from registry.config import merge, to_yaml


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
