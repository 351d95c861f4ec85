"""python -m training: commands for finished runs."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from console.streams import prepare_streams
from registry import ConfigError
from training.dashboards.command import add_commands

_VERIFY = "example: python -m training verify runs/quickstart/2026-01-31_12-00-00"
_COMPARE = "example: python -m training compare runs/quickstart/2026-01-31_12-00-00 runs/quickstart/2026-01-31_12-30-00"
_REPORT = "example: python -m training report runs/quickstart/2026-01-31_12-00-00"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 1 if a run's numbers do not agree or the run does not exist."""
    parser = argparse.ArgumentParser("python -m training", description="What can be done with finished runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "verify",
        help="compare a run's table with ir-measures on its run.trec",
        description="Compare every metric of a run's table with what ir-measures computes from its run.trec and the "
        "judgements of its source, query by query. Ties count as the mean over their orders.",
        epilog=_VERIFY,
    )
    check.add_argument("folder", metavar="run", type=Path, help="the run's folder")
    check.set_defaults(run=_verify)
    report = commands.add_parser(
        "report",
        help="write report.html of a run again",
        description="Write report.html of a run from the files in its folder: of a finished run as at its end, of one "
        "that was stopped what is known so far.",
        epilog=_REPORT,
    )
    report.add_argument("runs", type=Path, nargs="+", metavar="run", help="the run's folder")
    report.set_defaults(run=_report)
    compare = commands.add_parser(
        "compare",
        help="compare runs on the same test queries, as a page",
        description="Write a page that compares finished runs: results, paired tests on the common test queries, "
        "curves, settings that differ, and the queries that differ most. Its numbers are written beside it as json.",
        epilog=_COMPARE,
    )
    compare.add_argument("runs", type=Path, nargs="+", metavar="run", help="a run's folder")
    compare.add_argument("--metric", help="by which curves and queries are compared; else what the first run watched")
    compare.add_argument("--into", type=Path, default=Path("comparison.html"), help="the page; else comparison.html")
    compare.set_defaults(run=_compare)
    add_commands(commands)
    chosen = parser.parse_args(arguments)
    try:
        return chosen.run(chosen)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


# What the commands need is imported in them, so that --help does not wait for it.
def _verify(chosen: argparse.Namespace) -> int:
    from console.tables import print_table
    from training.results.verification import TOLERANCE, verify

    found = verify(chosen.folder)
    print_table(Console(), found.table())
    print(f"all agree to {TOLERANCE:g}" if found.equal else f"some differ by more than {TOLERANCE:g}")
    return 0 if found.equal else 1


def _compare(chosen: argparse.Namespace) -> int:
    from console.tables import print_table
    from training.pages.comparison import Comparison
    from training.pages.comparison_page import write_comparison
    from training.pages.run_folder import RunFolder

    comparison = Comparison.of([RunFolder.read(run) for run in chosen.runs])
    write_comparison(comparison, chosen.into, chosen.metric)
    print_table(Console(), comparison.table())
    print(f"in {chosen.into} and {chosen.into.with_suffix('.json')}")
    return 0


def _report(chosen: argparse.Namespace) -> int:
    from training.pages.run_page import write_page

    for run in chosen.runs:
        print(write_page(run))
    return 0


if __name__ == "__main__":
    prepare_streams()
    sys.exit(main())
