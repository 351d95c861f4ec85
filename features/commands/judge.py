"""Judging alone: verdicts on the recorded responses of a file, without a language model."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from console.progress import WorkProgress
from console.tables import new_table, print_table
from features.reading.records import RecordFile, find_files
from features.texts.tasks import Response, Task, TaskSource
from features.verification.report import Judged, VerdictReport
from features.verification.workers import build_verifier
from ranking.stores.files import as_json, make_folder, write_file
from registry import SOURCES, VERIFIERS, ConfigError, Node
from registry.config import load_config
from registry.ranges import Count, FilePath

_EXAMPLES = """examples:
  python -m features judge groups.jsonl verifier=final_number
  python -m features judge responses.jsonl verifier=math_answer into=verdicts
  python -m features judge samples.jsonl verifier=unit_tests tasks=humaneval tasks.path=HumanEval.jsonl.gz
  python -m features judge BFCL_v4_parallel_result.json verifier=function_calls tasks=bfcl tasks.path=bfcl_eval/data
  python -m features judge samples_gsm8k.jsonl verifier=final_number

FILE has problems with recorded responses (python -m registry problems), or is a result file of human-eval, EvalPlus,
BFCL, ZeroEval or lm-eval (python -m registry results). `source=NAME` reads it as another source.
"""


@dataclass(frozen=True)
class JudgeConfig:
    """What to judge, and how.

    Args:
        verifier: Name and options.
        source: Where the responses and references are.
        into: A folder for verdicts.jsonl, groups.jsonl with the labels, report.json and the page of examples report.md;
            null prints the counts only.
        examples: Number of examples of each kind on that page.
        imports: Modules outside the repository that register verifiers or sources.
    """

    verifier: Annotated[Node, VERIFIERS]
    source: Annotated[Node, SOURCES]
    into: FilePath | None = None
    examples: Count = 20
    imports: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> int:
    """Judge a file and show the counts; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m features judge",
        description="Verdicts on recorded responses, without a language model.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="FILE", help="problems with responses, or a result file; also a pattern")
    parser.add_argument("options", nargs="*", metavar="key=value", help="verifier=NAME, and more options")
    chosen = parser.parse_args(list(arguments))
    if not any(option.startswith("verifier") for option in chosen.options):
        parser.error("name a verifier: verifier=NAME; there are: " + ", ".join(VERIFIERS.names()))
    config = load_config(None, _overrides(chosen.path, chosen.options), into=JudgeConfig)
    started = time.perf_counter()
    report = judge(SOURCES.build(config.source, path="source"), config.verifier, Console(stderr=True))
    _show(report, Console(), time.perf_counter() - started)
    if config.into is not None:
        folder = Path(config.into)
        make_folder(folder, "set into to a folder that you may write to")
        write_file(folder / "verdicts.jsonl", "".join(report.lines()).encode())
        write_file(folder / "groups.jsonl", "".join(report.groups()).encode())
        write_file(folder / "report.json", as_json(report.results()))
        write_file(folder / "report.md", report.page(config.examples).encode())
        print(
            f"{folder}: verdicts.jsonl, report.json, examples of each kind in report.md, and groups.jsonl for training",
            file=sys.stderr,
        )
    return 0


def judge(source: TaskSource | str, verifier: Node, console: Console | None = None) -> VerdictReport:
    """Judge all recorded responses of a source.

    Args:
        source: A source of tasks with responses, or the path of a file of problems or results.
        verifier: Name and options.
        console: Where to show progress; null shows none.

    Returns:
        Each response with its verdict, the counts, and the agreement with given labels.

    Raises:
        ConfigError: If the file or the verifier has a mistake, or no response is recorded.
    """
    tasks = SOURCES.build({"name": source_of(source), "path": source}) if isinstance(source, str) else source
    pairs: list[tuple[Task, Response]] = [(task, each) for task in tasks.problems() for each in task.responses]
    if not pairs:
        raise ConfigError("source", "has no recorded response.", cure="give each problem `candidates` or `responses`")
    verdicts = build_verifier(verifier, path="verifier").verify((task, each.text) for task, each in pairs)
    with WorkProgress(
        len(pairs), console or Console(quiet=True), doing="Judging", done="Judged", unit="responses"
    ) as bar:
        judged = []
        for (task, response), verdict in zip(pairs, verdicts, strict=True):
            judged.append(Judged(task, response, verdict))
            bar.report(1)
    return VerdictReport(judged)


def source_of(path: str) -> str:
    """The name of the source that reads a file: `problems` if it has candidates or responses, else `results`.

    Raises:
        ConfigError: If there is no such file, or it cannot be read.
    """
    fields = RecordFile(find_files(path, "FILE")[0]).fields
    return "problems" if {"candidates", "responses"} & set(fields) else "results"


def _overrides(path: str, options: Sequence[str]) -> list[str]:
    """The options as overrides of the config; `tasks` belongs to the source."""
    named = [option for option in options if option.startswith(("source=", "source.name="))]
    first: list[Any] = [] if named else [f"source.name={source_of(path)}"]
    of_tasks = ["source." + option if option.startswith(("tasks=", "tasks.")) else option for option in options]
    of_tasks = [option.replace("=", ".name=", 1) if _is_name(option, options) else option for option in of_tasks]
    given = any(option.startswith("source.path=") for option in options)
    return [*first, *of_tasks, *([] if given else [f"source.path={json.dumps(path)}"])]


def _is_name(option: str, options: Sequence[str]) -> bool:
    """Whether this names a component whose options are also set: `verifier=x verifier.y=1`."""
    key = option.partition("=")[0]
    parts = [key, key.removeprefix("source.")]
    return key in ("verifier", "source", "source.tasks") and (
        key == "source" or any(each.startswith(tuple(f"{part}." for part in parts)) for each in options)
    )


def _show(report: VerdictReport, console: Console, seconds: float) -> None:
    table = new_table("verdict", "responses", "share", title=f"{len(report.judged):,} responses in {seconds:.1f} s")
    for kind, count in report.counts.items():
        table.add_row(kind, f"{count:,}", f"{count / len(report.judged):.1%}")
    print_table(console, table)
    if agreement := report.agreement:
        shown = {name: f"{value:,.4g}" for name, value in agreement.items()}
        console.print("given labels: " + ", ".join(f"{name} {value}" for name, value in shown.items()), highlight=False)
