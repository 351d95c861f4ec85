"""Jail: the isolated place where the programs of a worker run, and the steps before each program."""

import os
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sandbox.isolation.confinement import LANDLOCK, NAMESPACES, SECCOMP, Confinement
from sandbox.isolation.folders import empty_folder, remove_folder
from sandbox.isolation.landlock import build_ruleset
from sandbox.isolation.namespaces import (
    TEMPORARY,
    build_root,
    empty_temporary,
    enter_namespaces,
    keep_pids,
    open_own_pids,
    renew_pids,
)
from sandbox.isolation.syscalls import adopt_orphans, end_with_parent, hide_memory

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")


class Missing(Exception):
    """An isolation layer is unavailable, with the reason."""


@dataclass(frozen=True)
class Jail:
    """The isolated place where programs run.

    Args:
        confinement: The confinement of the worker and of its children.
        folder: The folder that programs may write to.
        empty: Empties the folder.
        leave: Removes the folder for good.
        renew: Puts the next child into a new namespace of process numbers, as its first process.
        keep: Puts the next child into this process's namespace of process numbers.
    """

    confinement: Confinement
    folder: str
    empty: Callable[[], None]
    leave: Callable[[], None]
    renew: Callable[[], None]
    keep: Callable[[], None]


def build_jail(limits: dict[str, Any], layers: Sequence[str], place: Path, files: Sequence[int]) -> Jail:
    """Move this process into the jail; with namespaces, only a child of this process returns.

    Args:
        limits: The limits of programs, by name.
        layers: The isolation layers to use.
        place: An empty folder.
        files: File descriptors that only the child keeps.

    Raises:
        Missing: If an isolation layer is unavailable.
    """
    if NAMESPACES in layers:
        with needed(NAMESPACES):
            return _in_namespaces(limits, SECCOMP in layers, place, files)
    with suppress(OSError):
        adopt_orphans()
        hide_memory()
    ruleset = None
    if LANDLOCK in layers:
        with needed(LANDLOCK):
            ruleset = build_ruleset(_readable(), _existing(_DEVICES), str(place))
    confinement = Confinement(limits, False, ruleset, SECCOMP in layers)
    empty, leave = partial(empty_folder, place), partial(remove_folder, place)
    return Jail(confinement, str(place), empty, leave, renew=lambda: None, keep=lambda: None)


@contextmanager
def needed(layer: str) -> Iterator[None]:
    """Report an OSError as a missing isolation layer."""
    try:
        yield
    except OSError as error:
        raise Missing(layer, str(error)) from error


def _in_namespaces(limits: dict[str, Any], filtered: bool, place: Path, files: Sequence[int]) -> Jail:
    readable, megabytes = _readable(), limits["folder_mb"]
    if any(Path(path).is_relative_to(TEMPORARY) for path in readable):
        raise OSError(0, f"the interpreter is in {TEMPORARY}, which must be empty")
    enter_namespaces()
    if child := os.fork():
        for file in files:
            os.close(file)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    end_with_parent(signal.SIGKILL)
    own = open_own_pids()
    build_root(str(place), readable, _existing(_DEVICES), megabytes)
    hide_memory()
    confinement = Confinement(limits, True, None, filtered)
    empty = partial(empty_temporary, megabytes)
    renew, keep = partial(renew_pids, own), partial(keep_pids, own)
    return Jail(confinement, TEMPORARY, empty, leave=lambda: None, renew=renew, keep=keep)


def _readable() -> list[str]:
    """The folders of the interpreter's files, without those inside another of these folders."""
    paths = {*_LIBRARIES, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib"}
    with suppress(OSError):
        files = (line.split(maxsplit=5)[5:] for line in Path("/proc/self/maps").read_text().splitlines())
        paths |= {str(Path(file[0]).parent) for file in files if file and file[0].startswith("/")}
    folders: list[str] = []
    for path in sorted(path for path in paths if Path(path).is_dir()):
        if not any(Path(path).is_relative_to(folder) for folder in folders):
            folders.append(path)
    return folders


def _existing(paths: tuple[str, ...]) -> list[str]:
    return [path for path in paths if Path(path).exists()]
