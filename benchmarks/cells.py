"""Cells: runs of train.py with different options and seeds; each result is saved as soon as it is done."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.comparison import in_own_process
from console.decimals import decimal
from console.tables import new_table
from registry import RunConfig, load_config
from training.results.provenance import provenance
from training.results.report import write_json

Finding = dict[str, Any]


Column = Callable[[Finding], float | str | None]


@dataclass(frozen=True)
class Cells:
    """A table whose rows are variants of a config, trained with several seeds.

    Args:
        name: The name of the table.
        question: The question that the table answers.
        config: The config that all rows start from.
        variants: For each row, the overrides of the config, as on train.py's command line.
        columns: For each column, the value to show of a finished run.
        seeds: The seeds of the runs.
        afterwards: Measures further values of a finished run, given its folder.
    """

    name: str
    question: str
    config: str
    variants: Mapping[str, Sequence[str]]
    columns: Mapping[str, Column]
    seeds: Sequence[int] = (0,)
    afterwards: Callable[[Path], Finding] | None = None

    def run(self, results: Path, runs: Path, console: Console) -> dict[str, Any]:
        """Train the runs that are not in the results yet, each in its own process; finished runs are saved."""
        from training.trainer import resolve_precision  # imported here, because printing a table needs no Lightning

        path = results / f"{self.name}.json"
        results.mkdir(parents=True, exist_ok=True)
        found = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []
        done = {(cell["variant"], cell["seed"]): cell for cell in found}
        for variant, overrides in self.variants.items():
            for seed in self.seeds:
                config = dataclasses.replace(load_config(self.config, [*overrides, f"seed={seed}"]), runs=str(runs))
                # The results record what `auto` stands for; a machine where it differs trains again.
                config = dataclasses.replace(config, trainer=resolve_precision(config.trainer))
                settings = json.loads(json.dumps({**dataclasses.asdict(config), "runs": None}))
                if (cell := done.get((variant, seed))) is not None and cell["settings"] == settings:
                    continue
                console.print(f"{self.name}: {variant}, seed {seed}")
                cell = in_own_process(train, config, Path(self.config).stem, self.afterwards)
                made_with = {**provenance(), "machine": machine.describe()}
                done[variant, seed] = {
                    "variant": variant, "seed": seed, **cell, "settings": settings, "made_with": made_with
                }  # fmt: skip
                write_json(path, self._content(done))
        return self._content(done)

    def table(self, content: Mapping[str, Any]) -> Table:
        """The variants as rows; numbers are means over seeds, followed by each seed's value if there are several."""
        table = new_table("", *self.columns, title=self.question)
        for row in self._rows(content):
            table.add_row(*row)
        return table

    def markdown(self, content: Mapping[str, Any]) -> str:
        """The table in Markdown, for the documentation."""
        lines = ["| | " + " | ".join(self.columns) + " |", "|---" * (len(self.columns) + 1) + "|"]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in self._rows(content))])

    def _content(self, done: Mapping[tuple[str, int], Finding]) -> dict[str, Any]:
        wanted = [(variant, seed) for variant in self.variants for seed in self.seeds]
        cells = [done[key] for key in wanted if key in done]
        return {"question": self.question, "config": self.config, "cells": cells}

    def _rows(self, content: Mapping[str, Any]) -> Iterator[list[str]]:
        for variant in self.variants:
            cells = [cell for cell in content["cells"] if cell["variant"] == variant]
            if cells:
                yield [variant, *(_shown([column(cell) for cell in cells]) for column in self.columns.values())]


def train(config: RunConfig, name: str, afterwards: Callable[[Path], Finding] | None) -> Finding:
    """Execute one run from config to test; return test metrics of all scorers, validation metrics, and the cost."""
    from training import run  # imported here, because only the processes that train need it

    found = run.train(config, name)
    metrics = found.metrics
    return {
        "scorers": {
            scorer: {metric: value["mean"] for metric, value in values.items()}
            for scorer, values in metrics["test"]["scorers"].items()
        },
        "queries": metrics["test"]["queries"],
        "val": {metric: value["mean"] for metric, value in metrics["val"]["scorers"][config.ranker["name"]].items()},
        "differences": metrics["test"]["differences"],
        "scaling": metrics.get("scaling"),
        "seconds": metrics["seconds"],
        **(afterwards(found.path) if afterwards else {}),
    }


def _shown(values: Sequence[float | str | None]) -> str:
    if any(value is None for value in values):
        return "–"
    if any(isinstance(value, str) for value in values):
        return " / ".join(str(value) for value in dict.fromkeys(values))
    numbers = [float(value) for value in values if value is not None]
    text = decimal(mean(numbers))
    return text if len(numbers) == 1 else f"{text} ({' / '.join(map(decimal, numbers))})"
