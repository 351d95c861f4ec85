"""python -m benchmarks [name ...]: run speed comparisons or tables of trained rankers, and save all numbers."""

import argparse
import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from console.streams import prepare_streams
from console.tables import print_table
from registry import ConfigError

SPEED = {
    "training": {
        "fit": "an epoch of training, against plain PyTorch loops",
        "store": "opening and reading a store, against reading its files",
        "projection": "projecting each vector once a batch, against once a group",
        "training_throughput": "training with texts encoded in each step, against sentence-transformers",
        "reward_model": "training a reward model on pairs, against TRL, and with prompts shared, against whole texts",
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
TABLES = {
    "ablations": "what each part of LRanker adds: nine runs of the quickstart",
    "templates": "how much the centroids matter, by template, pooling and injection: sixteen runs",
}
RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks; exit status 1 if a ratio misses its target, or a benchmark cannot run here."""
    listing, tables = ("\n".join(f"  {name:20} {what}" for name, what in kind.items()) for kind in (BENCHMARKS, TABLES))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"speed comparisons, all of them by default:\n{listing}\n\ntables; runs that are in their results are "
        f"not repeated:\n{tables}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help="which benchmarks")
    parser.add_argument("--repeats", type=int, default=5, help="number of runs of each way (default: 5)")
    parser.add_argument("--cores", type=int, default=2, help="cores to run on (default: 2)")
    parser.add_argument(
        "--data", type=Path, help="folder for synthetic data, or with MBPP (default: a temporary folder)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for <name>.json")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="folder for the runs of tables")
    parser.add_argument("--tiny", action="store_true", help="a small size that only shows that the benchmarks work")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in BENCHMARKS | TABLES]:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS | TABLES)}")

    from benchmarks import machine
    from benchmarks.speed.training import workload  # here, so that --help does not wait for torch

    machine.limit_cores(chosen.cores)
    size, console, holds = workload.TINY if chosen.tiny else workload.MBPP, Console(), True
    with TemporaryDirectory() as temporary:
        for name in chosen.names or BENCHMARKS:
            folder = next((f"speed.{kind}." for kind, names in SPEED.items() if name in names), "")
            benchmark = importlib.import_module(f"benchmarks.{folder}{name}")
            if name in TABLES:
                print_table(console, benchmark.TABLE.table(benchmark.TABLE.run(chosen.results, chosen.runs, console)))
                continue
            try:
                found = benchmark.measure(chosen.data or Path(temporary), size, chosen.repeats)
            except ConfigError as error:
                console.print(f"{name} has not run. {error}\n", style="red", markup=False)
                holds = False
                continue
            found.show(console)
            console.print(f"written: {found.write(chosen.results)}\n")
            holds &= all(ratio["holds"] for ratio in found.results()["ratios"].values())
    return 0 if holds else 1


if __name__ == "__main__":
    prepare_streams()
    sys.exit(main())
