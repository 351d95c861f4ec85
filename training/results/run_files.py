"""Run files: reads what a run has written; a file that was damaged since is one error that names it."""

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry import ConfigError

_CURE = "copy it back from an undamaged copy, or test the run again: python train.py --resume RUN"


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Read and take apart a file in this context.

    Raises:
        ConfigError: If its content is not what a run writes.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        problem = f"damaged, or of something else than a run: {type(error).__name__}: {error}."
        raise ConfigError(str(file), problem, cure=_CURE) from error


def read_json(file: Path) -> Mapping[str, Any]:
    """The mapping in a json file; empty if there is no file."""
    if not file.is_file():
        return {}
    with reading(file):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"a mapping was expected, not {json.dumps(found)[:40]}")
        return found


def read_per_query(file: Path, scorer: str) -> dict[str, dict[str, float]]:
    """A scorer's metrics of each test query, by the query's id; empty if there is no file."""
    if not file.is_file():
        return {}
    with reading(file), file.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["scorer"] == scorer]
        return {
            row["query_id"]: {name: float(value) for name, value in row.items() if name not in ("query_id", "scorer")}
            for row in rows
        }
