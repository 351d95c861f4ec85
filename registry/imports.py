"""Imports: modules outside the repository whose components a yaml names, remembered so that checkpoints find them."""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from registry.errors import ConfigError

_imported: dict[str, str] = {}


def import_modules(names: Iterable[str], folders: Iterable[Path | str] = ()) -> None:
    """Import modules so that what they register exists.

    Args:
        names: Module names, as in an import statement.
        folders: Where to look besides Python's own path and the working directory.

    Raises:
        ConfigError: If a module is nowhere to be found. An error inside a module is raised as it is.
    """
    places = [str(Path.cwd()), *(str(Path(folder).resolve()) for folder in folders)]
    sys.path.extend(place for place in places if place not in sys.path)
    for place, name in enumerate(names):
        if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
            cure = "write it as in an import statement: my_block for my_block.py"
            raise ConfigError(f"imports[{place}]", f"not the name of a module: {name!r}.", cure=cure)
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            file = f"{name.replace('.', '/')}.py"
            cure = f"put {file} in one of {', '.join(dict.fromkeys(places))}, or install it"
            raise ConfigError(f"imports[{place}]", f"no module named {name!r}.", cure=cure) from error
        depth = name.count(".") + hasattr(module, "__path__")
        _imported[name] = str(Path(module.__file__ or ".").resolve().parents[depth])


def imported_modules() -> dict[str, str]:
    """Every module imported so far by `import_modules`, and the folder it was found in."""
    return dict(_imported)
