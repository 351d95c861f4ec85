"""Cells: runs of train.py that differ in some options and in the seed, each kept as soon as it is done."""

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
        name: Of the table.
        question: What it answers, in a sentence.
        config: What all rows start from.
        variants: Row -> overrides of the config, as on train.py's command line.
        columns: What to show of a finished run.
        seeds: Of the runs.
        afterwards: What else to find out of a finished run, given its folder.
    """

    name: str
    question: str
    config: str
    variants: Mapping[str, Sequence[str]]
    columns: Mapping[str, Column]
    seeds: Sequence[int] = (0,)
    afterwards: Callable[[Path], Finding] | None = None

    def run(self, results: Path, runs: Path, console: Console) -> dict[str, Any]:
        """Train what is not in the results yet, one process a run; what is done is kept if this is stopped."""
        from training.trainer import resolve_precision  # not above: to print a table needs no Lightning

        path = results / f"{self.name}.json"
        results.mkdir(parents=True, exist_ok=True)
        found = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []
        done = {(cell["variant"], cell["seed"]): cell for cell in found}
        for variant, overrides in self.variants.items():
            for seed in self.seeds:
                config = dataclasses.replace(load_config(self.config, [*overrides, f"seed={seed}"]), runs=str(runs))
                # What is kept says what `auto` was; a machine where it is something else trains anew.
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
        """The variants as rows; numbers are means over seeds, with each seed's behind where there are several."""
        table = new_table("", *self.columns, title=self.question)
        for row in self._rows(content):
            table.add_row(*row)
        return table

    def markdown(self, content: Mapping[str, Any]) -> str:
        """The same for the documentation."""
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
    """One run, from config to test; the test metrics of all its scorers, its own on validation, and what it took."""
    from training import run  # not above: only the processes that train need it

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
