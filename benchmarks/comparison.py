"""Comparison: how long several ways to do the same thing took, in turns, and how they relate."""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from rich.console import Console

from benchmarks import machine
from console.decimals import decimal
from console.tables import new_table, print_table
from training.results.provenance import provenance
from training.results.report import write_json

T = TypeVar("T")


@dataclass(frozen=True)
class Ratio:
    """How many times longer one way takes than another, and what it should be.

    Args:
        of: The way above the line.
        to: The way below it.
        at_most: What is asked for, if anything.
        at_least: Likewise.
    """

    of: str
    to: str
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value is what was asked for."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def wish(self) -> str:
        """What was asked for, in words."""
        bounds = (("at most", self.at_most), ("at least", self.at_least))
        return ", ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)


@dataclass(frozen=True)
class Comparison:
    """What a benchmark found.

    Args:
        name: Of the benchmark.
        question: What it answers, in a sentence.
        ways: Each way's name and what it does.
        seconds: Of each way, one value a repeat; the ways of a repeat ran one after the other.
        ratios: Which ways to compare.
        facts: Whatever else the numbers need: sizes, other people's numbers, lower bounds.
    """

    name: str
    question: str
    ways: Mapping[str, str]
    seconds: Mapping[str, Sequence[float]]
    ratios: Sequence[Ratio]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def ratio(self, ratio: Ratio) -> list[float]:
        """Its value in each repeat: what slows the machine for a while slows both ways."""
        return [of / to for of, to in zip(self.seconds[ratio.of], self.seconds[ratio.to], strict=True)]

    def results(self) -> dict[str, Any]:
        """Everything as plain values."""
        ways = {
            name: {"what": what, "median_seconds": median(self.seconds[name]), "seconds": list(self.seconds[name])}
            for name, what in self.ways.items()
        }
        ratios = {}
        for ratio in self.ratios:
            values = self.ratio(ratio)
            ratios[f"{ratio.of} / {ratio.to}"] = {
                "median": median(values),
                "values": values,
                "wish": ratio.wish(),
                "holds": ratio.holds(median(values)),
            }
        made_with = {**provenance(), "machine": machine.describe()}
        return {"question": self.question, "ways": ways, "ratios": ratios, **self.facts, "made_with": made_with}

    def write(self, folder: Path) -> Path:
        """Write `<name>.json` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{self.name}.json", self.results())
        return folder / f"{self.name}.json"

    def show(self, console: Console) -> None:
        """Print the ways, then the ratios."""
        ways = new_table("way", "median s", "fastest", "slowest", title=f"{self.name}: {self.question}")
        for name, what in self.ways.items():
            seconds = self.seconds[name]
            ways.add_row(f"{name}: {what}", *map(decimal, (median(seconds), min(seconds), max(seconds))))
        ratios = new_table("times as long", "median", "lowest", "highest", "wished for")
        for ratio in self.ratios:
            values = self.ratio(ratio)
            style = "" if not ratio.wish() else "green" if ratio.holds(median(values)) else "red"
            cells = (decimal(value, 2) for value in (median(values), min(values), max(values)))
            ratios.add_row(f"{ratio.of} / {ratio.to}", *cells, ratio.wish(), style=style)
        print_table(console, ways)
        console.print()
        print_table(console, ratios)
        for name, fact in self.facts.items():
            console.print(f"{name}: {fact}", style="dim", soft_wrap=True, markup=False)


def markdown(results: Mapping[str, Any]) -> str:
    """The ratios of what a comparison wrote, for the documentation; what a wish asks for stands beside each."""
    rows = (
        f"| {name} | {decimal(ratio['median'], 2)} | {ratio['wish'] + ('' if ratio['holds'] else ': missed')} |"
        for name, ratio in results["ratios"].items()
    )
    return "\n".join(["| times as long | median | wished for |", "|---|---|---|", *rows])


def in_turns(ways: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """What each way returned, repeat by repeat; the order turns around from one repeat to the next."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in list(ways)[:: 1 if repeat % 2 == 0 else -1]:
            found[name].append(ways[name]())
    return found


def seconds_of(work: Callable[[], Any]) -> float:
    """How long a piece of work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function where no other has left memory, threads or modules behind."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
