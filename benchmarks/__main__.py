"""python -m benchmarks [name ...] [key=value ...]: run speed comparisons, or tables of trained rankers."""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console

from console.streams import prepare_streams
from console.tables import print_table
from registry import ConfigError
from registry.config import CONFIGS

if TYPE_CHECKING:
    from benchmarks.speed.training.workload import Workload

SPEED = {
    "training": {
        "fit": "an epoch of training, against plain PyTorch loops",
        "store": "opening and reading a store, against reading its files",
        "projection": "projecting each vector once a batch, against once a group",
        "training_throughput": "training with texts encoded in each step, against sentence-transformers",
        "reward_model": "training a reward model on pairs, against TRL, and with prompts shared, against whole texts",
        "light_ranker": "training and scoring with ListRanker, against a reward model of the same groups",
        "sasrec": "training SASRec, against cornac's",
    },
    "vectors": {
        "search": "the best of a million candidates, against faiss",
        "kmeans": "one large clustering and a thousand small ones, against faiss and scikit-learn",
        "pool_memory": "ranking 6.8 million candidates on disk, 14 GB, against reading them",
        "scaling": "test-time scaling of LRanker, prefixes shared, against whole prompts",
    },
    "serving": {
        "personal": "10,000 users' rankers in one process, against the bytes of their differences and scoring alone",
        "latency": "one query in ONNX Runtime and in NumPy, against PyTorch",
        "best_of": "ten responses and the ranker that chooses, against the responses alone",
        "serving": "10,000 requests of 200 clients over HTTP, against calling rank in a loop",
    },
    "responses": {
        "sampling": "64 responses to one prompt, against generate and the matrix products alone",
        "kept_states": "the same with hidden states kept, against without",
        "hidden_states": "states of responses that exist, against the plain full forward",
        "sandbox": "running 1,000 short programs with their tests, against a new interpreter for each",
        "mutants": "MBPP's solutions, and these with one thing changed, against an interpreter for each",
        "verification": "judging 10,000 recorded answers of MATH, against the checks alone and a pool without timeouts",
    },
}
BENCHMARKS = {name: what for kind in SPEED.values() for name, what in kind.items()}
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Study:
    """A measurement that is neither a comparison of speed nor a table.

    Args:
        what: What it shows.
        run: Does it with the given options, the arguments of the command and a console to print on.
        options: The options key=value that it takes.
    """

    what: str
    run: Callable[[Mapping[str, str], argparse.Namespace, Console], None]
    options: tuple[str, ...] = ()


def count_parameters(given: Mapping[str, str], chosen: argparse.Namespace, console: Console) -> None:
    """Print how many weights the paper's models train."""
    from benchmarks.parameters import table

    print_table(console, table())


def teach_users(given: Mapping[str, str], chosen: argparse.Namespace, console: Console) -> None:
    """Let simulated users teach rankers."""
    from benchmarks.tastes import run_tastes

    if (data := given.get("data") or chosen.data) is None:
        raise ConfigError("data", "has to be set.", cure="data=FILE, groups with the graded outputs of models")
    run_tastes(Path(data), chosen.results, console)


def judge_answers(given: Mapping[str, str], chosen: argparse.Namespace, console: Console) -> None:
    """Judge public answers. Verdicts that differ are counted; they are no failure."""
    from benchmarks.verdicts.command import run_verdicts

    run_verdicts(Path(given.get("data") or chosen.data or "data"), chosen.results, console)


def draw_embeddings(given: Mapping[str, str], chosen: argparse.Namespace, console: Console) -> None:
    """Draw a query's embeddings."""
    from benchmarks.embeddings import QueryEmbeddings

    if "run" not in given:
        raise ConfigError("run", "has to be set.", cure="run=FOLDER, a finished run of lranker")
    chosen.results.mkdir(parents=True, exist_ok=True)
    path = chosen.results / "embeddings.png"
    QueryEmbeddings.of(Path(given["run"]), given.get("query")).draw(path)
    console.print(f"written: {path}")


def ask_server(given: Mapping[str, str], chosen: argparse.Namespace, console: Console) -> None:
    """Ask a server a run's test problems."""
    from benchmarks.best_of_n import run_best_of_n

    if "run" not in given:
        raise ConfigError("run", "has to be set.", cure="run=FOLDER, a finished run of a ranker of responses")
    if not (problems := given.get("problems", "60")).isdecimal():
        raise ConfigError("problems", "has to be a number.", cure="problems=60")
    run_best_of_n(Path(given["run"]), int(problems), chosen.results, console)


STUDIES = {
    "parameters": Study(
        "how many weights the paper's rankers and reward models train, from their shapes alone", count_parameters
    ),
    "tastes": Study(
        "what simulated users' heads learn from 20 picks each; data=FILE with graded outputs of models",
        teach_users,
        ("data",),
    ),
    "verdicts": Study(
        "verdicts on public answers against what is known of them; data=FOLDER with the answers",
        judge_answers,
        ("data",),
    ),
    "embeddings": Study(
        "a query's embeddings in parts of the pool, after a run of LRanker: run=RUN [query=ID]",
        draw_embeddings,
        ("run", "query"),
    ),
    "best_of_n": Study(
        "accuracy of a server's best of N on a run's test problems: run=RUN [problems=60]",
        ask_server,
        ("run", "problems"),
    ),
}


def tables() -> dict[str, str]:
    """The tables in configs/tables/, each with the sentence that its yaml begins with."""
    files = sorted((CONFIGS / "tables").glob("*.yaml"))
    return {file.stem: file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for file in files}


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks; exit status 1 if a ratio misses its target, or a benchmark cannot run here."""
    known = {name: study.what for name, study in STUDIES.items()} | tables()
    listing, listed = ("\n".join(f"  {name:20} {what}" for name, what in kind.items()) for kind in (BENCHMARKS, known))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"speed comparisons, all of them by default:\n{listing}\n\nstudies, and tables, also by the path of a "
        f"yaml; finished cells are not repeated:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help="which benchmarks; key=value are options of tables and studies: data=DATA",
    )
    parser.add_argument("--repeats", type=int, default=5, help="number of runs of each way (default: 5)")
    parser.add_argument("--cores", type=int, default=2, help="cores to run on (default: 2)")
    parser.add_argument(
        "--data", type=Path, help="folder for synthetic data, or with MBPP (default: a temporary folder)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for <name>.json")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="folder for the runs of tables")
    parser.add_argument(
        "--processes", type=int, default=1, help="cells of a table at once, as memory allows (default: 1)"
    )
    parser.add_argument("--render", action="store_true", help="render the cells of a table that are there; run nothing")
    parser.add_argument("--wandb", action="store_true", help="log tables to Weights & Biases too")
    parser.add_argument("--tiny", action="store_true", help="a small size that only shows that the benchmarks work")
    chosen = parser.parse_intermixed_args(arguments)
    overrides = [name for name in chosen.names if "=" in name]
    names = [name for name in chosen.names if name not in overrides]
    is_table = {name: name in known or name.endswith(".yaml") for name in names}
    if unknown := [name for name in names if name not in BENCHMARKS and not is_table[name]]:
        meant = get_close_matches(unknown[0], BENCHMARKS | known, n=1)
        hint = f"did you mean {meant[0]}? --help" if meant else "--help"
        parser.error(f"there is no benchmark or table {unknown[0]!r}; {hint} lists all of them")
    if overrides and not any(is_table.values()):
        parser.error(f"{overrides[0]} is an option of tables and studies, and none is named")

    from benchmarks import machine
    from benchmarks.speed.training import workload  # here, so that --help does not wait for torch

    machine.limit_cores(chosen.cores)
    size, console, holds = workload.TINY if chosen.tiny else workload.MBPP, Console(), True
    with TemporaryDirectory() as temporary:
        for name in names or BENCHMARKS:
            if name not in STUDIES and is_table.get(name):
                if status := _run_table(name, overrides, chosen, console):
                    return status
                continue
            try:
                if name in STUDIES:
                    study = STUDIES[name]
                    study.run(_options(study, overrides), chosen, console)
                else:
                    holds &= _compare(name, chosen.data or Path(temporary), size, chosen, console)
            except ConfigError as error:
                console.print(f"{name} has not run. {error}\n", style="red", markup=False)
                holds = False
    return 0 if holds else 1


def _options(study: Study, overrides: Sequence[str]) -> dict[str, str]:
    given = dict(each.split("=", 1) for each in overrides)
    for key in given.keys() - set(study.options):
        raise ConfigError(key, "there is no such option.", given=key, known=study.options)
    return given


def _compare(name: str, data: Path, size: "Workload", chosen: argparse.Namespace, console: Console) -> bool:
    """Run a comparison of speed; return whether its ratios hold."""
    kind = next(kind for kind, names in SPEED.items() if name in names)
    benchmark = importlib.import_module(f"benchmarks.speed.{kind}.{name}")
    found = benchmark.measure(data, size, chosen.repeats)
    found.show(console)
    console.print(f"written: {found.write(chosen.results)}\n")
    return all(ratio["holds"] for ratio in found.results()["ratios"].values())


def _run_table(name: str, overrides: list[str], chosen: argparse.Namespace, console: Console) -> int:
    from benchmarks.tables.command import run_table
    from training.resuming import InterruptedRunError

    options = {"processes": chosen.processes, "cores": chosen.cores, "render": chosen.render, "wandb": chosen.wandb}
    try:
        run_table(name, overrides, chosen.results, chosen.runs, console, **options)
    except ConfigError as error:
        console.print(f"{name} has not run to its end. {error}\n", style="red", markup=False)
        return 1
    except (KeyboardInterrupt, InterruptedRunError):
        console.print(f"{name} is stopped; finished cells are kept, and the same command goes on")
        return 130
    return 0


if __name__ == "__main__":
    prepare_streams()
    sys.exit(main())
