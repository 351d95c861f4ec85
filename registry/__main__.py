"""python -m registry [kind [name]]: every component a yaml can name, with its options."""

import argparse
import dataclasses
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from console.streams import prepare_streams
from registry import KINDS, ConfigError, schema
from registry.errors import shown
from registry.imports import import_modules
from registry.light_imports import lighten_imports


def main(arguments: list[str] | None = None) -> int:
    """Print all kinds, one kind, or one component; exit status 1 for an unknown name."""
    parser = argparse.ArgumentParser(
        prog="python -m registry",
        description=__doc__,
        epilog="examples:\n  python -m registry\n  python -m registry losses\n  python -m registry rankers list_ranker"
        "\n  python -m registry blocks --imports my_block",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(KINDS)}")
    parser.add_argument("name", nargs="?", help="a component of that kind")
    parser.add_argument("--imports", nargs="*", default=[], metavar="MODULE", help="modules outside the repository")
    chosen = parser.parse_args(arguments)
    try:
        import_modules(chosen.imports)
        if chosen.kind is not None and chosen.kind not in KINDS:
            raise ConfigError("registry", f"no such kind: {chosen.kind!r}.", given=chosen.kind, known=KINDS)
        for registry in [KINDS[chosen.kind]] if chosen.kind else KINDS.values():
            names = [chosen.name] if chosen.name else registry.names()
            factories = {name: registry.get(name, registry.kind) for name in names}
            print(f"\n{registry.kind}")
            for name, factory in factories.items():
                _print_component(name, factory, registry.provided)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _print_component(name: str, factory: Callable[..., Any], provided: Sequence[str]) -> None:
    _print(f"  {name}: ", schema.first_line(factory), indent=4)
    _print_options(factory, "", provided)


def _print_options(
    factory: Callable[..., Any], prefix: str, provided: Sequence[str] = (), defaults: Any = None
) -> None:
    for option in schema.options(factory).values():
        if defaults is not None:
            option = dataclasses.replace(option, default=getattr(defaults, option.name))
        nested = schema.dataclass_of(option.annotation)
        if option.default is schema.REQUIRED:
            default = "from the code" if option.name in provided else "required"
        elif nested is not None and option.default is not None:
            default = "as below"
        else:
            default = option.default if isinstance(option.default, str) else shown(option.default)
        _print(f"    {prefix + option.name:20} ", f"{schema.describe(option.annotation)}, {default}", indent=25)
        if option.doc:
            _print(" " * 27, option.doc, indent=27)
        if nested is not None:
            given = option.default if isinstance(option.default, nested) else None
            _print_options(nested, f"{prefix}{option.name}.", defaults=given)


def _print(head: str, text: str, indent: int) -> None:
    """Print a line, wrapped to the width of the terminal; without a terminal it stays one line, for `grep`."""
    if not sys.stdout.isatty():
        print(head + text)
        return
    width = shutil.get_terminal_size().columns
    # In a very narrow terminal the indent would leave no room for text.
    blank = " " * min(indent, width // 2)
    head = head if head.strip() else blank
    print(textwrap.fill(head + text, width, subsequent_indent=blank, break_long_words=False, break_on_hyphens=False))


if __name__ == "__main__":
    prepare_streams()
    lighten_imports()
    raise SystemExit(main())
