"""Imports: imports a user's modules that a yaml names, and remembers their folders for checkpoints."""

import importlib
import importlib.util
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import FrameType

from registry.errors import ConfigError

OURS = frozenset(
    {
        "benchmarks", "console", "datamodules", "features", "language_models", "rankers", "ranking", "registry",
        "sandbox", "serving", "train", "training",
    }
)  # fmt: skip
"""The top-level packages of this repository; their components need no import."""

_imported: dict[str, str] = {}


def import_modules(names: Iterable[str], folders: Iterable[Path | str] = ()) -> None:
    """Import modules, so that the components that they register exist.

    Args:
        names: Module names, as in an import statement.
        folders: Folders to search in addition to Python's own path and the working directory.

    Raises:
        ConfigError: If a module is not found, would be read from another file than the one in those folders, or raises
            an error; names the file and line.
    """
    places = list(dict.fromkeys([*(Path(folder).resolve() for folder in folders), Path.cwd()]))
    sys.path.extend(str(place) for place in places if str(place) not in sys.path)
    importlib.invalidate_caches()
    for number, name in enumerate(names):
        path = f"imports[{number}]"
        if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
            cure = "write it as in an import statement: my_block for my_block.py"
            raise ConfigError(path, f"not the name of a module: {name!r}.", cure=cure)
        file = _file_of(name)
        meant = next(filter(None, (_file_in(place, name) for place in places)), None)
        _check_meant(path, name, file, meant)
        _import(path, name, file or meant, places)
        found = _file_of(name)
        if found is None:
            cure = f"name a file in it, such as {name}.my_block, or give it an __init__.py"
            raise ConfigError(path, f"{name!r} is not a file, so no checkpoint could find it again.", cure=cure)
        _imported[name] = str(_root(name, found))


def imported_modules() -> dict[str, str]:
    """Every module that `import_modules` has imported so far, and its folder."""
    return dict(_imported)


def _check_meant(path: str, name: str, file: Path | None, meant: Path | None) -> None:
    """Refuse a name that Python uses for something other than the user's file."""
    top, stem = name.partition(".")[0], name.rpartition(".")[2]
    cure = f"give your file another name, such as my_{stem}.py, and use that name here"
    if name in OURS:
        raise ConfigError(path, f"{name!r} is a part of this repository, not {_yours(name, meant)}.", cure=cure)
    if top in sys.stdlib_module_names | {"__main__"}:
        raise ConfigError(path, f"{name!r} is a part of Python itself, not {_yours(name, meant)}.", cure=cure)
    if meant is None or file == meant or (file is not None and file.read_bytes() == meant.read_bytes()):
        return
    if name in _imported:
        cure = f"load them in two processes, or give {meant} another name"
        raise ConfigError(path, f"{name!r} is {file} in this process already, so {meant} cannot be read.", cure=cure)
    root = _root(name, meant)
    cure = f"give {meant if meant.parent == root else root / top} another name, and use that name here"
    problem = f"{(name if file else top)!r} is {file or _file_of(top)} to Python, so {meant} would not be read."
    raise ConfigError(path, problem, cure=cure)


def _yours(name: str, meant: Path | None) -> str:
    repository = Path(__file__).resolve().parents[1]
    return "a file of yours" if meant is None or _root(name, meant) == repository else str(meant)


def _import(path: str, name: str, file: Path | None, places: Sequence[Path]) -> None:
    try:
        with _telling_ctrl_c():
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if f"{name}.".startswith(f"{missing}."):
            wanted = f"{name.replace('.', '/')}.py"
            cure = f"put {wanted} in one of {', '.join(map(str, places))}, or install it"
            raise ConfigError(path, f"no module named {name!r}.", cure=cure) from error
        package = missing.partition(".")[0]
        if package in sys.modules or importlib.util.find_spec(package) is not None:
            raise _raised(path, name, file, error) from error
        problem = f"{_place(name, file, error)}: needs the package {missing}, which is not installed."
        cure = f"pip install {package.replace('_', '-')}, or put {package}.py in {file.parent if file else places[0]}"
        raise ConfigError(path, problem, cure=cure) from error
    except CtrlC:
        raise
    except BaseException as error:
        raise _raised(path, name, file, error) from error


class CtrlC(KeyboardInterrupt):
    """A Ctrl-C of the user; a module can also raise KeyboardInterrupt itself."""


@contextmanager
def _telling_ctrl_c() -> Iterator[None]:
    """Raise CtrlC for a Ctrl-C, if it would raise KeyboardInterrupt."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise CtrlC

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is stop:  # the module may have set its own
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _raised(path: str, name: str, file: Path | None, error: BaseException) -> ConfigError:
    """A ConfigError for an exception that a user's module raised."""
    if isinstance(error, SystemExit):
        reason = f"it ends Python: sys.exit({error.code!r})"
    else:
        try:
            text = error.msg if isinstance(error, SyntaxError) else str(error)
        except Exception:  # an exception of the user's, of which the text is code
            text = ""
        reason = f"{type(error).__name__}: {text.partition(chr(10))[0]}".removesuffix(": ").removesuffix(".")
    where = f" in {_root(name, file)}" if file else ""
    cure = f"correct the file; `python -c 'import {name}'`{where} shows the whole error"
    return ConfigError(path, f"{_place(name, file, error)}: {reason}.", cure=cure)


def _place(name: str, file: Path | None, error: BaseException) -> str:
    """The user's file and line that raised an error: the last ones before code of others."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno and Path(error.filename).is_file():
        return f"{error.filename}, line {error.lineno}"
    places = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if file and _is_users(Path(frame.f_code.co_filename), str(frame.f_globals.get("__name__")), _root(name, file))
    ]
    return places[-1] if places else str(file or name)


def _is_users(file: Path, module: str, root: Path) -> bool:
    return (
        file.resolve().is_relative_to(root)
        and "site-packages" not in file.parts
        and module.partition(".")[0] not in OURS
    )


def _file_in(folder: Path, name: str) -> Path | None:
    """The file of the module with this name in a folder."""
    stem = folder.joinpath(*name.split("."))
    files = (stem / "__init__.py", stem.with_name(f"{stem.name}.py"))
    return next((file.resolve() for file in files if file.is_file()), None)


def _file_of(name: str) -> Path | None:
    """The file that Python has read, or would read, for a module name; None if none exists. Runs no code."""
    file, path = None, None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        full = ".".join(parts[:depth])
        if full in sys.modules:
            file, path = getattr(sys.modules[full], "__file__", None), getattr(sys.modules[full], "__path__", None)
            continue
        spec = importlib.util.find_spec(full) if depth == 1 else PathFinder.find_spec(full, path or ())
        if spec is None:
            return None
        file, path = spec.origin, spec.submodule_search_locations
    return Path(file).resolve() if file and Path(file).is_file() else None


def _root(name: str, file: Path) -> Path:
    """The folder that a module's name is relative to."""
    return file.parents[name.count(".") + (file.stem == "__init__")]
