"""Comparison: times of several ways to do the same work, measured in turns, and their ratios."""

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
    """How many times as long one way takes as another, with a target.

    Args:
        of: The way in the numerator.
        to: The way in the denominator.
        at_most: The target as an upper limit, if any.
        at_least: The target as a lower limit, if any.
    """

    of: str
    to: str
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value meets the target."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def wish(self) -> str:
        """The target in words."""
        bounds = (("at most", self.at_most), ("at least", self.at_least))
        return ", ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)


@dataclass(frozen=True)
class Comparison:
    """The results of a benchmark.

    Args:
        name: The name of the benchmark.
        question: The question that the benchmark answers.
        ways: The name of each way, and what it does.
        seconds: The times of each way, one per repeat; in a repeat the ways run one after the other.
        ratios: The ways to compare.
        facts: Further values that explain the numbers: sizes, published numbers, lower bounds.
    """

    name: str
    question: str
    ways: Mapping[str, str]
    seconds: Mapping[str, Sequence[float]]
    ratios: Sequence[Ratio]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def ratio(self, ratio: Ratio) -> list[float]:
        """The value of a ratio in each repeat, because a temporarily slow machine slows both ways."""
        return [of / to for of, to in zip(self.seconds[ratio.of], self.seconds[ratio.to], strict=True)]

    def results(self) -> dict[str, Any]:
        """All results as plain values."""
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
    """The ratios in the results of a comparison as Markdown, for the documentation, each with its target."""
    rows = (
        f"| {name} | {decimal(ratio['median'], 2)} | {ratio['wish'] + ('' if ratio['holds'] else ': missed')} |"
        for name, ratio in results["ratios"].items()
    )
    return "\n".join(["| times as long | median | wished for |", "|---|---|---|", *rows])


def in_turns(ways: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Call each way once per repeat, in reverse order in every second repeat; return the results."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in list(ways)[:: 1 if repeat % 2 == 0 else -1]:
            found[name].append(ways[name]())
    return found


def seconds_of(work: Callable[[], Any]) -> float:
    """Execute work; return how many seconds it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new process, free of memory, threads and modules of other work."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
