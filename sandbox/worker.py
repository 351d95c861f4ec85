"""Worker: a small interpreter that forks a fresh process for each program, and never runs one itself.

A second process, the checker, reads the jobs and writes the results; neither the worker nor a program ever sees them.
The worker only hands the checker the pipes to each program, waits, kills and cleans up. It is started as a new
interpreter, because a process with threads, such as the one that uses the sandbox, must not be forked.
"""

import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sandbox.checker import BEGUN, DONE, EXIT, STILL_RUNNING, check
from sandbox.isolation.confinement import SECCOMP
from sandbox.isolation.jail import Jail, Missing, build_jail, needed
from sandbox.messages import Closed, read_message, write_message
from sandbox.program import serve

SAME, FRESH = b"s", b"f"
"""What the worker is told about each job: its tests are the same as those of the last job, or they are new."""

JUDGED, TOO_LATE, BROKEN = b".", b"t", b"x"
"""What the worker reports about each job: it has a result, it took too long, or the checker failed."""

_IMPORTED = (
    "array", "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "random", "re", "string", "typing",
)  # fmt: skip
"""Modules that programs often import, loaded in advance."""

_FILES = _ORDERS, _JOBS, _RESULTS, _STATUS = 10, 11, 12, 13
_CHECKERS = 14
_GRACE, _GRACE_OF_EXIT = 2.0, 0.05
_BRIEFLY = 0.001
_MOST_OF = 0.5
"""For the limit, the kernel counts CPU time by ticks; what it reports is exact, and can be less on a busy machine. So a
program that is killed after this share of its limit counts as out of time."""


def main() -> None:
    """Run a worker; the command line gives the settings as JSON, and the folder that holds this package."""
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
        jail = build_jail(settings["limits"], settings["layers"], Path(settings["place"]), _FILES)
        _rehearse(jail)
    except Missing as missing:
        layer, reason = missing.args
        write_message(_RESULTS, {"missing": layer, "reason": reason})
        return
    write_message(_RESULTS, {"ready": True})
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with suppress(BrokenPipeError):
            _work(jail)
    finally:
        jail.leave()


class _Program:
    """The process of a program; it starts before its code is known."""

    def __init__(self, jail: Jail) -> None:
        jail.renew()
        self.jail, self.status, self.timed_out = jail, None, False
        asked, requests = os.pipe()
        replies, replied = os.pipe()
        output, printed = os.pipe()
        self.files = [requests, replies, output]
        self.pid = os.fork()
        if self.pid == 0:
            with suppress(BaseException):
                os.setsid()
                os.chdir(jail.folder)
                jail.confinement.limit_time()
                jail.confinement.confine_child()
                write_message(replied, "ready")
                serve(printed, asked, replied)
            os._exit(0)
        for file in (asked, replied, printed):
            os.close(file)

    def hand_over(self, receiver: socket.socket) -> None:
        """Give the pipes to the checker and close them here."""
        socket.send_fds(receiver, [b"."], self.files)
        for file in self.files:
            os.close(file)

    def wait(self, seconds: float) -> int:
        """Wait up to `seconds` for the program to end; return its exit status, or `STILL_RUNNING`."""
        last = time.monotonic() + seconds
        while self.status is None and not self._has_ended(os.WNOHANG) and time.monotonic() < last:
            time.sleep(_BRIEFLY)
        return STILL_RUNNING if self.status is None else self.status

    def kill(self, checker: int | None) -> None:
        """Kill the program and all its descendants.

        Args:
            checker: The process number of the checker, which must survive; None if there is no checker.
        """
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._has_ended(0)
        if not self.jail.confinement.namespaces and not self.jail.confinement.filter:
            _kill_children_but(checker)

    def _has_ended(self, options: int) -> bool:
        pid, status, used = os.wait4(self.pid, options)
        if pid:
            self.status, seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
            limit = self.jail.confinement.limits["cpu_seconds"]
            self.timed_out = self.status == -signal.SIGKILL and seconds > _MOST_OF * limit
        return bool(pid)


class _Checker:
    """The process that evaluates tests; it is replaced when the tests change."""

    def __init__(self, jail: Jail) -> None:
        jail.keep()
        self.jail = jail
        self.socket, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            with suppress(BaseException):
                os.chdir(jail.folder)
                null = os.open(os.devnull, os.O_RDWR)
                for place in range(3):
                    os.dup2(null, place)
                jail.confinement.confine_child()
                own = socket.socket(fileno=_placed(theirs.detach(), _CHECKERS))
                for others in ((3, _JOBS), (_STATUS, _CHECKERS), (_CHECKERS + 1, 1 << 8)):
                    os.closerange(*others)
                check(own, _JOBS, _RESULTS, jail.confinement.limits)
                os._exit(0)
            os._exit(1)
        theirs.close()

    def watch(self, program: _Program) -> bytes | None:
        """Wait for the checker's next job, and return what to report about it; None if the checker ended before."""
        deadline: float | None = None
        ready = select.poll()
        ready.register(self.socket, select.POLLIN)
        while True:
            if not ready.poll(None if deadline is None else max(deadline - time.monotonic(), 0) * 1000):
                return TOO_LATE
            said = self.socket.recv(1)
            if said == DONE:
                return JUDGED
            if said == BEGUN:
                deadline = time.monotonic() + self.jail.confinement.limits["seconds"] + _GRACE
            elif said:
                status = program.wait(_GRACE_OF_EXIT)
                self.socket.send(EXIT.pack(status, program.timed_out))
            else:
                return None

    def end(self) -> int:
        """Kill the checker; return its exit status."""
        self.socket.close()
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _work(jail: Jail) -> None:
    """Execute orders until there are no more."""
    checker: _Checker | None = None
    while True:
        program = _Program(jail)
        order = os.read(_ORDERS, 1)
        if checker is not None and order != SAME:
            checker.end()
            checker = None
        if not order:
            return program.kill(None)
        checker = checker or _Checker(jail)
        program.hand_over(checker.socket)
        status = checker.watch(program)
        if status != JUDGED:
            died_of = checker.end()
            status = status or (TOO_LATE if -died_of == signal.SIGXCPU else BROKEN)
            checker = None
        program.kill(checker.pid if checker else None)
        # Before the status is reported: if this fails, only this program's verdict is lost.
        jail.empty()
        os.write(_STATUS, status)


def _take_files(files: Sequence[int]) -> None:
    """Move the file descriptors to their fixed numbers, and close all others but the first three."""
    copies = [fcntl.fcntl(file, fcntl.F_DUPFD, 2 * _CHECKERS) for file in files]
    for place, copy in zip(_FILES, copies, strict=True):
        os.dup2(copy, place)
    os.closerange(3, _FILES[0])
    os.closerange(_CHECKERS, 1 << 16)


def _placed(file: int, place: int) -> int:
    return file if file == place else os.dup2(file, place)


def _rehearse(jail: Jail) -> None:
    """Confine the worker, and try all steps of confinement in a child that does nothing else.

    Raises:
        Missing: If an isolation layer fails.
    """
    with needed(SECCOMP):
        jail.confinement.confine_worker()
    heard, said = os.pipe()
    jail.renew()
    child = os.fork()
    if child == 0:
        for layer, step in jail.confinement.steps():
            try:
                step()
            except OSError as error:
                write_message(said, [layer, str(error)])
                os._exit(1)
        os._exit(0)
    os.close(said)
    with suppress(Closed):
        raise Missing(*read_message(heard))
    os.close(heard)
    os.waitpid(child, 0)


def _kill_children_but(checker: int | None) -> None:
    """Kill all children but the checker, including orphans that this process adopts while it kills."""
    while True:
        texts = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
        children = {int(child) for text in texts for child in text.split()} - {checker}
        if not children:
            return
        for child in children:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
