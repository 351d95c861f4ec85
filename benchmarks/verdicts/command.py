"""python -m benchmarks verdicts data=DATA: verdicts on public answers, counted and listed where they differ."""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import machine
from benchmarks.verdicts.checks import CHECKS, Check
from console.tables import new_table, print_table
from features.verification.workers import build_verifier
from registry import ConfigError
from training.results.provenance import provenance
from training.results.report import write_json

_MOST_LISTED, _LONGEST = 100, 300


def run_verdicts(data: Path, results: Path, console: Console, checks: Mapping[str, Check] = CHECKS) -> int:
    """Judge the public answers below a folder; print the counts, and write `verdicts.json`.

    Args:
        data: A folder with some of the folders that the checks name; others are left out.
        results: The folder for the results.
        console: Where to print.
        checks: What to judge.

    Returns:
        The number of verdicts that differ.

    Raises:
        ConfigError: If the folder has none of the data.
    """
    present = {name: check for name, check in checks.items() if (data / check.folder).is_dir()}
    if not present:
        known = ", ".join(sorted({check.folder for check in checks.values()}))
        raise ConfigError("data", f"{data} has none of the folders {known}.", cure="data=FOLDER with some of these")
    found = {}
    for name, check in present.items():
        found[name] = judged(check, data / check.folder)
        console.print(f"{name}: {found[name]['differ']:,} of {found[name]['responses']:,} differ", highlight=False)
    table = new_table(
        "source", "responses", "agree", "differ", "no verdict", "seconds", title="verdicts on public answers"
    )
    for name, result in found.items():
        counts = (f"{result[key]:,}" for key in ("responses", "agree", "differ", "undecided"))
        table.add_row(f"{name}: {checks[name].what}", *counts, f"{result['seconds']:.1f}")
    print_table(console, table)
    for name, result in found.items():
        for each in result["differing"]:
            told = f"{each['verdict']}, expected {each['expected']:g}: {each['response']!r}"
            console.print(f"{name} {each['task']}: {told}", markup=False, highlight=False, soft_wrap=True)
    results.mkdir(parents=True, exist_ok=True)
    made_with = {**provenance(), "machine": machine.describe()}
    write_json(results / "verdicts.json", {"sources": found, "made_with": made_with})
    return sum(result["differ"] for result in found.values())


def judged(check: Check, folder: Path) -> dict[str, Any]:
    """The counts of a check, by kind too, and the verdicts that differ."""
    items, started = list(check.items(folder)), time.perf_counter()
    verdicts = list(build_verifier(check.verifier).verify((item.task, item.text) for item in items))
    kinds: dict[str, Counter[str]] = {}
    differing = []
    for item, verdict in zip(items, verdicts, strict=True):
        outcome = "undecided" if verdict.label is None else "agree" if verdict.label == item.expected else "differ"
        kinds.setdefault(item.kind, Counter())[outcome] += 1
        if outcome != "agree":
            said = "no verdict" if verdict.label is None else f"{verdict.label:g}"
            text = item.text if len(item.text) <= _LONGEST else "…" + item.text[-_LONGEST:]
            about = {"task": item.task.query_id, "kind": item.kind, "expected": item.expected, "response": text}
            differing.append({**about, "verdict": f"{said} ({verdict.reason})" if verdict.reason else said})
    counts = sum(kinds.values(), Counter())
    return {
        "verifier": check.verifier,
        "responses": len(items),
        **{outcome: counts[outcome] for outcome in ("agree", "differ", "undecided")},
        "seconds": time.perf_counter() - started,
        "kinds": {kind: dict(counts) for kind, counts in kinds.items()},
        "differing": differing[:_MOST_LISTED],
    }
