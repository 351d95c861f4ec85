"""RunFolder: what a run has written so far, read without torch and without the run's data."""

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from registry import ConfigError
from training.results.run_files import read_json, read_per_query

Curve = Mapping[int, float]
"""A value by step."""

_FILES = (
    "best.ckpt",
    "last.ckpt",
    "metrics.json",
    "per_query.csv",
    "run.trec",
    "by_k.png",
    "responses.png",
    "scaling.png",
)


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Args:
        path: The run's folder.
        config_text: The content of `config.yaml`.
        metrics: The content of `metrics.json`; empty if the run was stopped before the end of its test.
        shown: The content of `report.json`; empty if there is none.
    """

    path: Path
    config_text: str
    metrics: Mapping[str, Any]
    shown: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """Read a run.

        Raises:
            ConfigError: If the folder holds no run, or one of its files cannot be read.
        """
        if not (path / "config.yaml").is_file():
            cure = "give the folder of a run, such as runs/quickstart/2026-01-31_12-00-00"
            raise ConfigError(str(path), "no run: there is no config.yaml in it.", cure=cure)
        text = (path / "config.yaml").read_text(encoding="utf-8")
        return cls(path, text, read_json(path / "metrics.json"), read_json(path / "report.json"))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The run's config, as it was written."""
        return yaml.safe_load(self.config_text)

    @property
    def ranker(self) -> str:
        """The name of the run's ranker."""
        return self.config["ranker"]["name"]

    @property
    def title(self) -> str:
        """The names of the config and of the run."""
        whole = self.path.resolve()
        return f"{whole.parent.name}/{whole.name}"

    @property
    def files(self) -> list[str]:
        """The names of those of the run's files that exist."""
        return [name for name in _FILES if (self.path / name).is_file()]

    @cached_property
    def curves(self) -> Mapping[str, Curve]:
        """What the csv logger wrote in training, by name; empty without that logger.

        The files of a run that was resumed are put together; where two have the same step, the later one counts. What
        was logged with the test, after training, is no part of a curve.
        """
        found: dict[str, dict[int, float]] = defaultdict(dict)
        versions = (self.path / "csv").glob("version_*/metrics.csv")
        for file in sorted(versions, key=lambda each: (len(each.parent.name), each.parent.name)):
            with file.open(encoding="utf-8", newline="") as lines:
                # The last row of a killed run can be cut off, even within a number.
                rows = csv.reader(line for line in lines if line.endswith("\n"))
                names = next(rows, [])
                for row in rows:
                    logged = dict(zip(names, row, strict=False))
                    if not logged.get("step"):
                        continue
                    step = int(float(logged.pop("step")))
                    for name, value in logged.items():
                        if value:
                            found[name][step] = float(value)
        tested = {step for name, curve in found.items() if name.startswith("test/") for step in curve}
        return {
            name: {step: curve[step] for step in sorted(curve) if not (name.startswith("val/") and step in tested)}
            for name, curve in found.items()
        }

    @cached_property
    def per_query(self) -> Mapping[str, Mapping[str, float]]:
        """The ranker's metrics for each test query, by the query's id; empty before the end of the test."""
        return read_per_query(self.path / "per_query.csv", self.ranker)
