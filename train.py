"""Train a ranker and test it: python train.py --config quickstart.yaml [key=value ...]."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from console.streams import prepare_streams
from registry import ConfigError, RunConfig, load_config
from registry.config import to_yaml
from registry.light_imports import lighten_imports

EXAMPLES = """examples:
  python train.py --config quickstart.yaml
  python train.py --config quickstart.yaml ranker.optimizer.lr=1e-3 trainer.max_epochs=5 logger=wandb
  python train.py --config list_ranker_jsonl.yaml features.source.path=groups.jsonl
  python train.py --config personal.yaml features.source.path=picks.jsonl init_from=runs/list_ranker_jsonl/TIME
  python train.py --config quickstart.yaml --check
  python train.py --resume runs/quickstart/2026-01-31_12-00-00
  python -m registry                 every name a yaml can hold, with its options"""


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, 1 for a mistake in the config or the data, 130 after Ctrl-C, 143 after SIGTERM."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", metavar="FILE", action="append", help="a yaml file, or the name of one in configs/")
    parser.add_argument("--resume", metavar="RUN", type=Path, help="folder of a stopped run to go on with")
    parser.add_argument("--check", action="store_true", help="validate everything, build nothing heavy, exit")
    parser.add_argument("--print-config", action="store_true", help="print the config as it would run, exit")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of the config, dotted")
    chosen = parser.parse_intermixed_args(arguments)
    if (chosen.config is None) == (chosen.resume is None):
        parser.error("give --config FILE, or --resume RUN")
    if chosen.config is not None:
        if len(chosen.config) > 1:
            parser.error(f"--config is there {len(chosen.config)} times: a config names others with `base:`")
        chosen.config = chosen.config[0]
    given = chosen.resume / "config.yaml" if chosen.config is None else chosen.config
    try:
        if chosen.resume and not (chosen.resume / "config.yaml").is_file():
            raise ConfigError(str(chosen.resume), "no run to go on with: there is no config.yaml in it.")
        # A run that goes on has saved all options of its ranker, and the start may be gone.
        config = load_config(given, chosen.overrides, describe=None if chosen.resume else _describe)
        if chosen.print_config:
            print(to_yaml(dataclasses.asdict(config)), end="")
            return 0
        return go(config, chosen)
    except ConfigError as error:
        if chosen.resume:
            # Of a run's folder all of the path: its name alone is a time, and looks like that of a log's line.
            in_run = chosen.resume in (Path(error.path), Path(error.path).parent)
            error.file = "" if in_run else str(chosen.resume / "config.yaml")
        elif chosen.config and error.path != chosen.config:
            error.file = error.file or Path(chosen.config).name
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was saved is kept, and the same command goes on building features", file=sys.stderr)
        return 130


def _describe(start: Path) -> Mapping[str, Any]:
    from rankers.checkpoint import describe  # waits for torch

    return describe(start)


def go(config: RunConfig, chosen: argparse.Namespace) -> int:
    """Check the config and, unless that is all, train."""
    from training import run  # not above: --help and mistakes in the yaml need not wait for torch

    try:
        if chosen.check:
            run.check(config, new=not chosen.resume)
            read = run.check_data(config, whole=True)
            print(f"{chosen.config or chosen.resume}: everything in it fits; {read}")
        else:
            run.train(config, Path(chosen.config or chosen.resume.parent).stem, chosen.resume)
    except run.InterruptedRunError as error:
        print(error, file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    prepare_streams()
    if {"--check", "--print-config"} & {*sys.argv}:
        lighten_imports()
    sys.exit(main())
