"""Table: runs the cells that are not in its results yet, and saves each as soon as it is done."""

import json
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.tables.centroids import sensitivity
from benchmarks.tables.config import Cell, TableSpec
from benchmarks.tables.runs import Finding, Work, execute, settings_of
from registry import ConfigError
from training.results.report import write_json

_MEASURES: Mapping[str, Callable[[Path], Finding]] = {"centroids": sensitivity}
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Table:
    """A table with its results.

    Args:
        spec: What its yaml says.
        results: The folder for `<name>.json`.
        runs: The folder for the runs of tables.
    """

    spec: TableSpec
    results: Path
    runs: Path

    @property
    def path(self) -> Path:
        """The file of the results."""
        return self.results / f"{self.spec.name}.json"

    def findings(self) -> dict[Key, Finding]:
        """The findings of the cells that are done."""
        if not self.path.is_file():
            return {}
        cells = json.loads(self.path.read_text(encoding="utf-8"))["cells"]
        return {(cell["section"], cell["row"], cell["column"], cell["seed"]): cell for cell in cells}

    def run(self, console: Console, processes: int = 1, cores: int = 2) -> dict[Key, Finding]:
        """Run the cells that have no finding with their settings, several at a time; each is saved when it is done.

        Args:
            console: Where progress is printed.
            processes: How many cells run at once, where memory allows.
            cores: The cores that they share.
        """
        self.results.mkdir(parents=True, exist_ok=True)
        cells, done = {cell.key: cell for cell in self.spec.cells()}, self.findings()
        waiting = [cell for key, cell in cells.items() if not _is_done(done.get(key), cell)]
        lacking = [cell for cell in waiting if _needs_gpu(cell) and not torch.cuda.is_available()]
        if lacking:
            console.print(f"{self.spec.name}: {len(lacking)} cells need a GPU, and none is here: left out")
            waiting = [cell for cell in waiting if cell not in lacking]
        console.print(f"{self.spec.name}: {len(cells) - len(waiting)} of {len(cells)} cells are there")
        measure = _MEASURES[self.spec.config.measure] if self.spec.config.measure else None
        threads = max(1, cores // processes)
        works = {cell.key: Work(cell.config, cell.name, cell.judged, self.runs, threads, measure) for cell in waiting}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
            for key, finding in _each_done(pool, works, processes, console):
                cell = cells[key]
                where = dict(zip(("section", "row", "column", "seed"), key, strict=True))
                done[key] = {**where, **finding, **_settings(cell)}
                self._write({each: done[each] for each in cells if each in done})
        return {key: done[key] for key in cells if key in done}

    def _write(self, done: Mapping[Key, Finding]) -> None:
        config = self.spec.config
        write_json(self.path, {"question": config.question, "config": config.config, "cells": list(done.values())})


def _each_done(pool: Executor, works: dict[Key, Work], processes: int, console: Console) -> Any:
    """Yield each cell's finding when it is done.

    Cells that share a run or build the same features never run together, and another cell starts beside a running one
    only if as much memory is free as the largest cell so far has used.
    """
    running: dict[Future[Finding], Key] = {}
    built: set[str] = set()
    waiting, largest = dict(works), 0
    while waiting or running:
        for key, work in list(waiting.items()):
            busy = [works[each] for each in running.values()]
            if len(running) >= processes or (running and not 0 < largest < free_memory()):
                break
            if any(work.run == other.run or _data(work) == _data(other) not in built for other in busy):
                continue
            console.print(": ".join(part for part in key[:3] if part) + f", seed {key[3]}", markup=False)
            running[pool.submit(execute, work)] = key
            del waiting[key]
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            key = running.pop(future)
            try:
                finding = future.result()
            except BrokenProcessPool as error:
                problem = "the process of a cell was killed; it may have been short of memory."
                cure = "the same command with fewer --processes goes on where it stopped"
                raise ConfigError("--processes", problem, cure=cure) from error
            except ConfigError as error:
                error.file = error.file or f"{key[1]} x {key[2]}"
                raise
            built.add(_data(works[key]))
            largest = max(largest, finding.get("peak_bytes") or 0)
            yield key, finding


def free_memory() -> int:
    """Bytes of memory that a new process can use."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def _needs_gpu(cell: Cell) -> bool:
    return cell.config.trainer.get("accelerator") in ("gpu", "cuda")


def _data(work: Work) -> str:
    return json.dumps([work.config.features, work.judged and work.judged.features], sort_keys=True)


def _is_done(finding: Finding | None, cell: Cell) -> bool:
    return finding is not None and {name: finding.get(name) for name in _settings(cell)} == _settings(cell)


def _settings(cell: Cell) -> dict[str, Any]:
    judged = {} if cell.judged is None else {"judged_on": settings_of(cell.judged)}
    return {"settings": settings_of(cell.config), **judged}
