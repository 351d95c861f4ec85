"""python -m features: build stores and pools of a config, show, merge and split them, and judge recorded responses."""

import importlib
import sys

from console.streams import prepare_streams
from registry import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Execute a command; for a mistake in the config, the data or a store, print a message and return exit status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        # Judging needs no torch, which takes seconds to import.
        if arguments[:1] == ["judge"]:
            return importlib.import_module("features.commands.judge").main(arguments[1:])
        return importlib.import_module("features.commands.stores").execute(arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Finished work is saved; run the same command to continue.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    prepare_streams()
    raise SystemExit(main())
