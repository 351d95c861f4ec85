"""Jail: where the programs of a worker run, and what is done before each."""

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
    """A layer that there is not, and why."""


@dataclass(frozen=True)
class Jail:
    """Where programs run.

    Args:
        confinement: Of the worker, and of what it forks.
        folder: The one that programs may write to.
        empty: Empties it.
        leave: Removes it, for good.
        renew: Has the next child be the first of new process numbers.
        keep: Has the next child be among those of this process.
    """

    confinement: Confinement
    folder: str
    empty: Callable[[], None]
    leave: Callable[[], None]
    renew: Callable[[], None]
    keep: Callable[[], None]


def build_jail(limits: dict[str, Any], layers: Sequence[str], place: Path, files: Sequence[int]) -> Jail:
    """Move this process to where programs run; with namespaces, what goes on is a child of it.

    Args:
        limits: Of programs.
        layers: What to protect with.
        place: An empty folder.
        files: Descriptors that only the child shall keep.

    Raises:
        Missing: If a layer cannot be had.
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
    """Have a failure mean that a layer is missing."""
    try:
        yield
    except OSError as error:
        raise Missing(layer, str(error)) from error


def _in_namespaces(limits: dict[str, Any], filtered: bool, place: Path, files: Sequence[int]) -> Jail:
    readable, megabytes = _readable(), limits["folder_mb"]
    if any(Path(path).is_relative_to(TEMPORARY) for path in readable):
        raise OSError(0, f"the interpreter is in {TEMPORARY}, which has to be empty")
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
    """The folders of the interpreter's own files; those within others are left out."""
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
