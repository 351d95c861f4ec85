"""python -m benchmarks [name ...]: run speed comparisons, print their ratios, keep every number."""

import argparse
import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

BENCHMARKS = {
    "fit": "an epoch of training, against plain PyTorch loops",
    "store": "opening and reading a store, against reading its files",
    "projection": "projecting each vector once a batch, against once a group",
    "scaling": "test-time scaling of LRanker, prefixes shared, against whole prompts",
}
RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks; exit status 1 if a ratio is not what was asked for."""
    listing = "\n".join(f"  {name:12} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks, all of them by default:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help="which benchmarks")
    parser.add_argument("--repeats", type=int, default=5, help="how often each way runs (default: 5)")
    parser.add_argument("--cores", type=int, default=2, help="cores to run on (default: 2)")
    parser.add_argument("--data", type=Path, help="folder to keep the synthetic data in (default: a temporary one)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for <name>.json")
    parser.add_argument("--tiny", action="store_true", help="a size that shows only that the benchmarks work")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")

    from benchmarks import machine, workload  # here, so that --help need not wait for torch

    machine.limit_cores(chosen.cores)
    size, console, holds = workload.TINY if chosen.tiny else workload.MBPP, Console(), True
    with TemporaryDirectory() as temporary:
        for name in chosen.names or BENCHMARKS:
            benchmark = importlib.import_module(f"benchmarks.{name}")
            found = benchmark.measure(chosen.data or Path(temporary), size, chosen.repeats)
            found.show(console)
            console.print(f"written: {found.write(chosen.results)}\n")
            holds &= all(ratio["holds"] for ratio in found.results()["ratios"].values())
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
