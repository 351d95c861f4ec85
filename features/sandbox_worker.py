"""Sandbox worker: a small interpreter that forks a fresh pair of processes, checker and program, for each program.

It never runs code itself and never holds any: the checker reads the job, after it has forked the program, and writes
the result. The worker only waits, kills and cleans up. It is started as an interpreter of its own, so the process that
uses the sandbox, which may have threads, is not forked.
"""

import fcntl
import gc
import importlib
import json
import os
import select
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from features.sandbox_checker import Link, evaluate
from features.sandbox_confinement import LANDLOCK, NAMESPACES, SECCOMP, Confinement
from features.sandbox_frames import Closed, read_frame, write_frame
from features.sandbox_landlock import build_ruleset
from features.sandbox_namespaces import (
    TEMPORARY,
    build_root,
    empty_temporary,
    enter_namespaces,
    open_own_pids,
    renew_pids,
)
from features.sandbox_program import serve
from features.sandbox_syscalls import adopt_orphans, end_with_parent, hide_memory

JUDGED, TOO_LATE, BROKEN = b".", b"t", b"x"
"""What the worker says of each job: there is a result, it took too long, or the checker has failed."""

_IMPORTED = (
    "array", "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "random", "re", "string", "typing",
)  # fmt: skip
"""What programs often import, so that they need not load it."""

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_JOBS, _RESULTS, _STATUS = 10, 11, 12
_GRACE = 2.0
_NO_JOB, _FAILED = 3, 4


class _Missing(Exception):
    """A layer that there is not, and why."""


def main() -> None:
    """Be a worker; the arguments are the settings, as JSON, and the folder that this module was found in."""
    settings = json.loads(sys.argv[1])
    _take_files(settings["files"])
    sys.path.remove(sys.argv[2])
    os.environ.clear()
    for name in _IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        jail = _build_jail(settings)
        _rehearse(jail)
    except _Missing as missing:
        layer, reason = missing.args
        write_frame(_RESULTS, {"missing": layer, "reason": reason})
        return
    write_frame(_RESULTS, {"ready": True})
    gc.collect()
    gc.freeze()
    gc.disable()
    with suppress(BrokenPipeError):
        while (status := _do_job(jail)) is not None:
            os.write(_STATUS, status)


@dataclass(frozen=True)
class _Jail:
    """Where programs run, and what is done before and after each.

    Args:
        confinement: Of each program and checker.
        folder: The one that they may write to.
        empty: Empties it.
        renew: Has the next process be the first of new process numbers.
        reap: Ends what processes have left behind.
    """

    confinement: Confinement
    folder: str
    empty: Callable[[], None]
    renew: Callable[[], None]
    reap: Callable[[], None]


def _take_files(files: list[int]) -> None:
    """Bring the descriptors to their places, and close all others but the first three."""
    copies = [fcntl.fcntl(file, fcntl.F_DUPFD, 2 * _STATUS) for file in files]
    for place, copy in zip((_JOBS, _RESULTS, _STATUS), copies, strict=True):
        os.dup2(copy, place)
    os.closerange(3, _JOBS)
    os.closerange(_STATUS + 1, 1 << 16)


def _build_jail(settings: dict[str, Any]) -> _Jail:
    limits, layers, place = settings["limits"], settings["layers"], Path(settings["place"])
    if NAMESPACES in layers:
        with _needed(NAMESPACES):
            readable = _readable()
            if any(Path(path).is_relative_to(TEMPORARY) for path in readable):
                raise OSError(0, f"the interpreter is in {TEMPORARY}, which has to be empty")
            enter_namespaces()
            if child := os.fork():
                os.closerange(_JOBS, _STATUS + 1)
                os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
            end_with_parent(signal.SIGKILL)
            own = open_own_pids()
            build_root(str(place), readable, _existing(_DEVICES), limits["folder_mb"])
            hide_memory()
        confinement = Confinement(limits, True, None, SECCOMP in layers)
        empty = partial(empty_temporary, limits["folder_mb"])
        return _Jail(confinement, TEMPORARY, empty, partial(renew_pids, own), lambda: None)
    with suppress(OSError):
        adopt_orphans()
        hide_memory()
    ruleset = None
    if LANDLOCK in layers:
        with _needed(LANDLOCK):
            ruleset = build_ruleset(_readable(), _existing(_DEVICES), str(place))
    confinement = Confinement(limits, False, ruleset, SECCOMP in layers)
    return _Jail(confinement, str(place), partial(_empty, place), lambda: None, _reap_orphans)


def _rehearse(jail: _Jail) -> None:
    """Confine the worker, and a process that does nothing else.

    Raises:
        _Missing: If that fails.
    """
    with _needed(SECCOMP):
        jail.confinement.confine_worker()
    heard, said = os.pipe()
    jail.renew()
    child = os.fork()
    if child == 0:
        for layer, step in jail.confinement.steps():
            try:
                step()
            except OSError as error:
                write_frame(said, [layer, str(error)])
                os._exit(1)
        os._exit(0)
    os.close(said)
    with suppress(Closed):
        raise _Missing(*read_frame(heard))
    os.close(heard)
    os.waitpid(child, 0)


def _do_job(jail: _Jail) -> bytes | None:
    """Have one job done; what to say of it, or None when there are no more."""
    jail.empty()
    jail.renew()
    heard, begun = os.pipe()
    checker = os.fork()
    if checker == 0:
        os.close(heard)
        _check(jail, begun)
    os.close(begun)
    late = False
    if os.read(heard, 1):  # ends without a byte where the checker does
        over = select.poll()
        over.register(heard, select.POLLIN)
        late = not over.poll((jail.confinement.limits["seconds"] + _GRACE) * 1000)
    os.close(heard)
    with suppress(ProcessLookupError):
        os.killpg(checker, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(checker, 0)[1])
    jail.reap()
    if code == _NO_JOB:
        return None
    if late or -code in (signal.SIGKILL, signal.SIGXCPU):
        return TOO_LATE
    return JUDGED if code == 0 else BROKEN


def _check(jail: _Jail, begun: int) -> None:
    """Be the checker of one job, and the program; does not return."""
    limits = jail.confinement.limits
    try:
        os.setsid()
        os.chdir(jail.folder)
        asked, requests = os.pipe()
        replies, replied = os.pipe()
        output, printed = os.pipe()
        program = os.fork()
        if program == 0:
            jail.confinement.confine_program()
            write_frame(replied, "ready")
            serve(printed, asked, replied)
            os._exit(0)
        for file in (asked, replied, printed):
            os.close(file)
        null = os.open(os.devnull, os.O_RDWR)
        for file in range(3):
            os.dup2(null, file)
        jail.confinement.confine_program()
        read_frame(replies)
    except BaseException:
        os._exit(_FAILED)
    try:
        job = read_frame(_JOBS)
    except Closed:
        os._exit(_NO_JOB)
    try:
        os.write(begun, b".")
        link = Link(program, requests, replies, output, limits["seconds"], limits["output_kb"] * 1000)
        write_frame(_RESULTS, evaluate(job, link))
        os._exit(0)
    finally:
        os._exit(_FAILED)


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


def _empty(folder: Path) -> None:
    """Remove what is in a folder; one that cannot be emptied ends the worker, and another gets a new one."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
            shutil.rmtree(path)
        else:
            path.unlink()


def _reap_orphans() -> None:
    """End every process that has no other parent left, and those that come to us as they end."""
    with suppress(ChildProcessError):
        while True:
            for children in Path("/proc/self/task").glob("*/children"):
                for child in children.read_text().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)


@contextmanager
def _needed(layer: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Missing(layer, str(error)) from error
