"""Results: the tables of `metrics.json` in Markdown, and its entry for a benchmark of the hub."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from console.decimals import decimal, interval

Found = Mapping[str, float | None]
_NONE = "–"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the hub, on whose page a result is to stand.

    Args:
        dataset: The data set, as `user/name`.
        task: The task, as the data set's eval.yaml names it.
    """

    dataset: str
    task: str = "default"

    @classmethod
    def named(cls, text: str) -> "Benchmark":
        """The benchmark of `user/name` or `user/name:task`.

        >>> Benchmark.named("user/name:hard").task
        'hard'
        """
        dataset, _, task = text.partition(":")
        return cls(dataset, task or "default")


def scores_table(metrics: Mapping[str, Any], ranker: str) -> str:
    """The means of all scorers on the test queries, then the ranker's differences to each other one."""
    test = metrics["test"]
    names = list(test["scorers"][ranker])
    rows = [
        [f"**{scorer}**" if scorer == ranker else scorer, *(_cell(found[name]) for name in names)]
        for scorer, found in test["scorers"].items()
    ]
    differences = [
        [f"{ranker} - {scorer}", *(_cell(found[name], signed=True) for name in names)]
        for scorer, found in test["differences"].items()
    ]
    return markdown(["", *names], rows + differences)


def by_k_table(by_k: Mapping[str, Any]) -> str:
    """The metric of each scorer for each number of responses to choose from."""
    rows = [[scorer, *(_cell(found) for found in means)] for scorer, means in by_k["scorers"].items()]
    return markdown([by_k["metric"], *(f"K = {k}" for k in by_k["ks"])], rows)


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown.

    >>> print(markdown(["", "mrr"], [["first", "0.500"]]))
    |  | mrr |
    |---|---|
    | first | 0.500 |
    """
    lines = [headers, *rows]
    text = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|---" * len(headers) + "|", *text[1:]])


def benchmark_entry(metrics: Mapping[str, Any], ranker: str, benchmark: Benchmark) -> dict[str, Any]:
    """The ranker's monitored metric on the test queries, as fields of huggingface_hub's `EvalResultEntry`."""
    name, found = monitored(metrics, ranker)
    low, high = found["low"], found["high"]
    between = "" if low is None or high is None else f", 95 % bootstrap interval {interval(low, high)}"
    notes = f"{name} of the ranker on {metrics['test']['queries']} test queries{between}"
    return {
        "dataset_id": benchmark.dataset,
        "task_id": benchmark.task,
        "value": found["mean"],
        "notes": notes,
    }


def monitored(metrics: Mapping[str, Any], ranker: str) -> tuple[str, Found]:
    """The metric that chose the checkpoint, or the first one if the test has not got it, and its test mean."""
    found = metrics["test"]["scorers"][ranker]
    name = str(metrics.get("monitor", "")).rpartition("/")[2]
    name = name if name in found else next(iter(found))
    return name, found[name]


def _cell(found: Found, *, signed: bool = False) -> str:
    mean, low, high = found["mean"], found["low"], found["high"]
    if mean is None or not math.isfinite(mean):
        return _NONE
    shown = decimal(mean, signed=signed)
    return shown if low is None or high is None else f"{shown} ({interval(low, high, signed=signed)})"
