"""Worker: a small interpreter that forks a fresh process for each program, and never runs any itself.

A second process, the checker, reads the jobs and writes the results; the worker holds nothing of either, nor does what
it forks. It only hands the checker the pipes to each program, waits, kills and cleans up. It is started as an
interpreter of its own, for a process with threads, such as that which uses the sandbox, must not be forked.
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
"""What the worker is told of each job: that its tests are those of the job before, or that they are others."""

JUDGED, TOO_LATE, BROKEN = b".", b"t", b"x"
"""What it says of each job: there is a result, it took too long, or the checker has failed."""

_IMPORTED = (
    "array", "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "random", "re", "string", "typing",
)  # fmt: skip
"""What programs often import, so that they need not load it."""

_FILES = _ORDERS, _JOBS, _RESULTS, _STATUS = 10, 11, 12, 13
_CHECKERS = 14
_GRACE, _GRACE_OF_EXIT = 2.0, 0.05
_BRIEFLY = 0.001
_MOST_OF = 0.75
"""What the kernel, which counts ticks, may take for all of a time."""


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
    """The process of a program, from before there is one to run."""

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
        """Give the pipes to the checker; they are open nowhere else then."""
        socket.send_fds(receiver, [b"."], self.files)
        for file in self.files:
            os.close(file)

    def wait(self, seconds: float) -> int:
        """Its exit status, if it ends within some time."""
        last = time.monotonic() + seconds
        while self.status is None and not self._has_ended(os.WNOHANG) and time.monotonic() < last:
            time.sleep(_BRIEFLY)
        return STILL_RUNNING if self.status is None else self.status

    def kill(self, checker: int | None) -> None:
        """End it, and all that came of it.

        Args:
            checker: The other child that this process may have.
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
    """The process that evaluates tests, for as long as they are the same."""

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
        """What is to be said of its next job; None if it has ended before the job was done."""
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
        """Kill it; how it had ended, if it had."""
        self.socket.close()
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _work(jail: Jail) -> None:
    """Do what is ordered, until there are no more orders."""
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
        # If this fails it is the program's own verdict that is lost, and no other's.
        jail.empty()
        os.write(_STATUS, status)


def _take_files(files: Sequence[int]) -> None:
    """Bring the descriptors to their places, and close all others but the first three."""
    copies = [fcntl.fcntl(file, fcntl.F_DUPFD, 2 * _CHECKERS) for file in files]
    for place, copy in zip(_FILES, copies, strict=True):
        os.dup2(copy, place)
    os.closerange(3, _FILES[0])
    os.closerange(_CHECKERS, 1 << 16)


def _placed(file: int, place: int) -> int:
    return file if file == place else os.dup2(file, place)


def _rehearse(jail: Jail) -> None:
    """Confine the worker, and a process that does nothing else.

    Raises:
        Missing: If that fails.
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
    """End every descendant that has no other parent left, and those that come to us as they end."""
    while True:
        texts = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
        children = {int(child) for text in texts for child in text.split()} - {checker}
        if not children:
            return
        for child in children:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
