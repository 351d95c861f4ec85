"""Table: runs the cells that are not in its results yet, and saves each as soon as it is done."""

import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import machine
from benchmarks.tables.centroids import sensitivity
from benchmarks.tables.config import Cell, TableSpec
from benchmarks.tables.runs import Finding, Work, data_of, execute, settings_of
from ranking.stores.files import lock_folder
from registry import ConfigError
from training.results.report import write_json
from training.resuming import InterruptedRunError
from training.trainer import device_of

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

    def outdated(self) -> list[Key]:
        """The cells whose findings are of other settings than the yaml has now, as in an earlier version."""
        found = self.findings()
        return [cell.key for cell in self.spec.cells() if cell.key in found and not self._is_done(found, cell)]

    def run(self, console: Console, processes: int = 1, cores: int = 2) -> dict[Key, Finding]:
        """Run the cells that have no finding with their settings, several at a time; each is saved when it is done.

        A cell that fails does not stop the others: its error is printed, and raised when they are done.

        Args:
            console: Where progress is printed.
            processes: How many cells run at once, where memory allows.
            cores: The cores that they share.

        Raises:
            ConfigError: For a mistake in a cell's config or data, or if another process runs this table.
        """
        home = self.runs / self.spec.name
        for folder in (self.results, home):
            folder.mkdir(parents=True, exist_ok=True)
        if (lock := lock_folder(home)) is None:
            cure = "wait until it has ended; --processes runs several cells at once"
            raise ConfigError(self.spec.name, "another process runs this table.", cure=cure)
        try:
            return self._run(console, processes, cores)
        finally:
            os.close(lock)

    def _run(self, console: Console, processes: int, cores: int) -> dict[Key, Finding]:
        cells, found = {cell.key: cell for cell in self.spec.cells()}, self.findings()
        done = {key: found[key] for key, cell in cells.items() if self._is_done(found, cell)}
        waiting = [cell for key, cell in cells.items() if key not in done]
        lacking = [cell for cell in waiting if _needs_gpu(cell) and not torch.cuda.is_available()]
        if lacking:
            console.print(f"{self.spec.name}: {len(lacking)} cells need a GPU, and none is here: left out")
            waiting = [cell for cell in waiting if cell not in lacking]
        console.print(f"{self.spec.name}: {len(cells) - len(waiting)} of {len(cells)} cells are there")
        measure = _MEASURES[self.spec.config.measure] if self.spec.config.measure else None
        threads = max(1, cores // processes)
        works = {cell.key: self._work(cell, threads, measure) for cell in waiting}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
            for key, finding in _each_done(pool, works, processes, console):
                cell = cells[key]
                where = dict(zip(("section", "row", "column", "seed"), key, strict=True))
                done[key] = {**where, **finding, **self._settings(cell)}
                self._write({each: done[each] for each in cells if each in done})
        return {key: done[key] for key in cells if key in done}

    def _work(self, cell: Cell, threads: int, measure: Callable[[Path], Finding] | None = None) -> Work:
        fuses = tuple(self._work(each, threads) for each in cell.fuses)
        return Work(cell.config, cell.name, cell.judged, self.runs, threads, measure, fuses)

    def _is_done(self, findings: Mapping[Key, Finding], cell: Cell) -> bool:
        finding, settings = findings.get(cell.key), self._settings(cell)
        return (
            finding is not None
            and {name: finding.get(name) for name in settings} == settings
            and finding.get("data") in (None, data_of(cell.config, cell.judged))
        )

    def _settings(self, cell: Cell) -> dict[str, Any]:
        judged = {} if cell.judged is None else {"judged_on": settings_of(cell.judged)}
        measured = {} if self.spec.config.measure is None else {"measured": self.spec.config.measure}
        fuses = {"fuses": [settings_of(each.config) for each in cell.fuses]} if cell.fuses else {}
        return {"settings": settings_of(cell.config), **judged, **measured, **fuses}

    def _write(self, done: Mapping[Key, Finding]) -> None:
        config = self.spec.config
        write_json(self.path, {"question": config.question, "config": config.config, "cells": list(done.values())})


def _each_done(pool: Executor, works: dict[Key, Work], processes: int, console: Console) -> Any:
    """Yield each cell's finding when it is done.

    Cells that share a run or build the same features never run together, a cell that fuses runs waits for these, and
    another cell starts beside a running one only if as much memory is free as the largest cell so far has used.

    Raises:
        Exception: The first error of a cell, once all others are done.
    """
    running: dict[Future[Finding], Key] = {}
    built: set[str] = set()
    failed: list[Exception] = []
    problems: set[str] = set()
    waiting, largest, largest_on_gpu = dict(works), 0, 0
    while waiting or running:
        for key, work in list(waiting.items()):
            busy = [works[each] for each in running.values()]
            if len(running) >= processes or (running and not _have_room(largest, largest_on_gpu)):
                break
            if any(work.run == other.run or _data(work) == _data(other) not in built for other in busy):
                continue
            if {each.run for each in work.fuses} & {each.run for each in [*waiting.values(), *busy]}:
                continue
            console.print(_name_of(key), markup=False)
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
            except InterruptedRunError:
                raise
            except Exception as error:  # raised below; the other cells do not depend on it
                problem = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
                is_new = problem not in problems
                console.print(
                    f"{_name_of(key)} has failed{f': {problem}' if is_new else ' likewise'}", style="red", markup=False
                )
                problems.add(problem)
                if isinstance(error, ConfigError):
                    error.file = error.file or _name_of(key)
                failed.append(error)
                continue
            built.add(_data(works[key]))
            largest = max(largest, finding.get("host_peak_bytes") or 0)
            if device_of(works[key].config.trainer).type == "cuda":
                largest_on_gpu = max(largest_on_gpu, finding.get("peak_bytes") or 0)
            yield key, finding
    if failed:
        console.print(f"{len(failed)} cells have failed: correct what they say, then the same command runs them again")
        raise failed[0]


def _have_room(host: int, gpu: int) -> bool:
    """Whether a cell that needs these bytes of the machine's and the GPU's memory has room beside the running ones."""
    return 0 < host < machine.free_memory() and (not gpu or gpu < torch.cuda.mem_get_info()[0])


def _name_of(key: Key) -> str:
    return ": ".join(part for part in key[:3] if part) + f", seed {key[3]}"


def _needs_gpu(cell: Cell) -> bool:
    return cell.config.trainer.get("accelerator") in ("gpu", "cuda")


def _data(work: Work) -> str:
    return json.dumps([work.config.features, work.judged and work.judged.features], sort_keys=True)
