"""What the files of an offline W&B run hold, as W&B's own program reads them, and what the documentation names."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from packaging.version import parse

DOCS = Path(__file__).resolve().parents[1] / "docs" / "wandb.md"
_CORE = Path(wandb.__file__).parent / "bin" / "wandb-core"
_KINDS = {"table-file": "table", "images/separated": "picture", "histogram": "histogram"}


def logged(run: Path) -> dict[str, set[str]]:
    """The names of what the only W&B run in a run's folder has logged, by its kind; each file it names is there."""
    (folder,) = run.glob("wandb/offline-run-*")
    found: dict[str, set[str]] = {kind: set() for kind in ("curve", *_KINDS.values())}
    for record in records(folder):
        for name, value in record.get("history", {}).get("item", {}).items():
            whole, _, part = name.rpartition(".")
            if part == "_type":
                found[_KINDS[value]].add(whole)
            elif isinstance(value, int | float) and not name.startswith("_") and not _is_part(name, record):
                found["curve"].add(name)
            elif part in ("path", "filenames"):
                files = [value] if part == "path" else value
                assert all((folder / "files" / file).stat().st_size for file in files), files
    return found


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's log, up to its end, which W&B's own process may write late on a busy machine."""
    if parse(wandb.__version__) < parse("0.31"):
        pytest.skip("W&B prints the records of an offline run from 0.31 on")
    (log,) = folder.glob("*.wandb")
    while True:
        command = [_CORE, "leet", "inspect", "--no-observability", "--json", "--run-file", log, folder.parent]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        found = [json.loads(line) for line in lines]
        if found and found[-1]["type"] == "exit":
            return found
        time.sleep(0.2)


def documented(kind: str, where: str) -> list[str]:
    """The names that the documentation gives to things of a kind, as regular expressions.

    Args:
        kind: `curve`, `table`, `picture` or `histogram`.
        where: A word of the row's column that says when they are logged.
    """
    rows = re.findall(r"^\| (`.*?`) \| (\w+) \| (.*?) \|", DOCS.read_text(), re.MULTILINE)
    names = [name for cell, of, when in rows if of == kind and where in when for name in re.findall(r"`(.*?)`", cell)]
    return [re.sub(r"<\w+>", "[^/]+", name) for name in names]


def missing(run: Path, where: str) -> list[str]:
    """What the documentation names and the run has not logged."""
    found = logged(run)
    return [
        name
        for kind, names in found.items()
        for name in documented(kind, where)
        if not any(re.fullmatch(name, each) for each in names)
    ]


def _is_part(name: str, record: dict[str, Any]) -> bool:
    """Whether a number belongs to a table, picture or histogram."""
    return f"{name.rpartition('.')[0]}._type" in record["history"]["item"]
