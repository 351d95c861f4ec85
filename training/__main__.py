"""python -m training: commands for finished runs, and for what W&B shows of them."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from console.streams import prepare_streams
from registry import ConfigError
from training.dashboards.command import add_commands

_EXAMPLE = "example: python -m training verify runs/quickstart/2026-01-31_12-00-00"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 1 if a run's numbers do not agree or the run does not exist."""
    parser = argparse.ArgumentParser("python -m training", description="What can be done with finished runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "verify",
        help="compare a run's table with ir-measures on its run.trec",
        description="Compare every metric of a run's table with what ir-measures computes from its run.trec and the "
        "judgements of its source, query by query. Ties count as the mean over their orders.",
        epilog=_EXAMPLE,
    )
    check.add_argument("folder", metavar="run", type=Path, help="the run's folder")
    check.set_defaults(run=_verify)
    add_commands(commands)
    chosen = parser.parse_args(arguments)
    try:
        return chosen.run(chosen)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1


def _verify(chosen: argparse.Namespace) -> int:
    from console.tables import print_table  # imported here, so --help does not wait for torch
    from training.results.verification import TOLERANCE, verify

    found = verify(chosen.folder)
    print_table(Console(), found.table())
    print(f"all agree to {TOLERANCE:g}" if found.equal else f"some differ by more than {TOLERANCE:g}")
    return 0 if found.equal else 1


if __name__ == "__main__":
    prepare_streams()
    sys.exit(main())
