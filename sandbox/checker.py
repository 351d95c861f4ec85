"""Checker: the process that watches programs, and evaluates tests on their answers unless programs are trusted.

Program and checker are two processes, and neither was forked from the other. A name that the tests use but do not
define stands for the program's object of that name. A call of it is sent to the program, and plain results come back as
copies. So every comparison of plain values happens here, in a process that has never run the program's code.
"""

import ast
import builtins
import gc
import importlib
import os
import random
import resource
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sandbox.messages import Closed, Refused, message_of, read_message, write_message
from sandbox.remote import Link, Remote, Undecidable, ask
from sandbox.runner import ANYTHING, run_tests

BEGUN, DONE, ENDED = b"b", b"d", b"e"
"""What a checker tells its worker: it has a job, it has written the result, or the program has ended."""

STILL_RUNNING = 1 << 16
"""The worker's answer to `ENDED`, in place of the exit status, if the program still runs."""

EXIT = struct.Struct("!i?")
"""The format of that answer: the exit status, and whether the program exceeded its limit of CPU time."""

_MOST_MESSAGES = 1 << 13
_TESTS = "tests"


def check(worker: socket.socket, jobs: int, results: int, limits: dict[str, Any]) -> None:
    """Evaluate jobs until there are no more.

    Args:
        worker: The socket to the worker, which sends the pipes to a program for each job.
        jobs: The file descriptor that jobs are read from.
        results: The file descriptor that results are written to.
        limits: The limits of each program, by name.
    """
    gc.enable()
    while True:
        _, files, _, _ = socket.recv_fds(worker, 1, 3)
        if not files:
            return
        assert read_message(files[1]) == "ready"
        try:
            job = read_message(jobs)
        except Closed:
            return
        worker.send(BEGUN)
        _allow_time(limits["cpu_seconds"])
        link = Link(files, lambda: _exit_reason(worker), limits["seconds"], limits["output_kb"] * 1000)
        write_message(results, evaluate(job, link))
        worker.send(DONE)
        for file in files:
            os.close(file)


def evaluate(job: dict[str, Any], link: Link) -> dict[str, Any]:
    """Run a program and its tests, and return the result as plain values.

    Args:
        job: `code`, what the tests need (`setup`, `prelude`, `entry_point`, and the fields of their `Plan`), and
            `trust`: whether the process of the program runs its tests too, or this process does.
        link: The link to the process that will run the code.
    """
    if job["trust"] == "program":
        return _result(link, *link.judge(job))
    random.seed(0)
    failures: list[str] = []

    def tell(failure: str) -> None:
        if link.undecidable:
            raise Refused(link.undecidable)
        failures.append(link.ended or failure)

    try:
        names, own = _namespace(job, link)
        module = _Module("program")
        module.__dict__["_names"] = names
        run_tests(job, module, names, own, tell)
    except (Refused, Undecidable) as error:
        return _result(link, [], undecided=str(error))
    except BaseException as error:  # tests that call sys.exit have not passed
        reason = link.ended or message_of(error)
        return _result(link, [reason] * len(job["pieces"]), error=reason, plain=job["plain"] and link.plain)
    return _result(link, failures, error=link.ended, plain=job["plain"] and link.plain)


class _Global:
    """A name that the program defines; each use of it asks the program for the value."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote


class _Names(dict[str, Any]):
    """The names that the tests can use."""

    def __getitem__(self, name: str) -> Any:
        """The current value of a name."""
        value = super().__getitem__(name)
        return ask("value", value.remote) if isinstance(value, _Global) else value


class _Module(types.ModuleType):
    """What tests that import the program get."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_names"][name]
        except KeyError:
            raise AttributeError(name) from None


def _namespace(job: dict[str, Any], link: Link) -> tuple[dict[str, Any], set[str]]:
    """The names that the tests can use, and those that the program defines.

    They can use the prelude's definitions, modules, and the program's objects.

    The checker imports modules itself, because the program may have changed those that it imported.
    """
    namespace = _Names({"__name__": _TESTS})
    defined, entry_point = link.run(job["code"]), job["entry_point"]
    used = set(defined if ANYTHING in job["reached"] else job["used"])
    with suppress(Exception):
        exec(compile(job["prelude"], "<prelude>", "exec", dont_inherit=True), namespace)
    if entry_point is None:
        own = {name for name, value in namespace.items() if getattr(value, "__module__", None) == _TESTS}
        others = used & defined.keys() & (own | {name for name in dir(builtins) if not name.startswith("__")})
        if others:
            raise Undecidable(f"{min(others)} is the program's and another's; entry_point must say what is tested")
    elif entry_point not in defined:
        raise NameError(f"name {entry_point!r} is not defined")
    for name in used:
        module = defined.get(name)
        if name == entry_point:
            namespace[name] = Remote(link, ["global", name])
        elif name in namespace or hasattr(builtins, name):
            continue
        elif name in sys.stdlib_module_names and _is_only_owner(name, job):
            with suppress(ImportError):
                namespace[name] = importlib.import_module(name)
        elif module is not None and module.partition(".")[0] in sys.stdlib_module_names and "__" not in module:
            with suppress(Exception):
                namespace[name] = importlib.import_module(module)
        elif name in defined:
            namespace[name] = _Global(Remote(link, ["global", name]))
    return namespace, {name for name, module in defined.items() if module is None and name[:2] != "__"}


def _is_only_owner(name: str, job: dict[str, Any]) -> bool:
    """Whether the tests use a name only to read attributes of it, as they would use a module."""
    nodes = [
        node
        for source in (job["setup"], *(piece["source"] for piece in job["pieces"]))
        for node in ast.walk(ast.parse(source))
    ]
    owners = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    places = [id(node) for node in nodes if isinstance(node, ast.Name) and node.id == name]
    return bool(places) and owners.issuperset(places)


def _result(
    link: Link, failures: Sequence[str], error: str = "", undecided: str = "", plain: bool = True
) -> dict[str, Any]:
    link.drain()
    shown, room = [], _MOST_MESSAGES
    for failure in failures:
        shown.append(failure if len(failure) <= room else "failed")
        room -= len(shown[-1])
    return {
        "failures": shown,
        "error": error,
        "undecided": undecided,
        "output": link.printed.decode(errors="replace"),
        "plain": plain,
        "seconds": time.monotonic() - link.begun,
    }


def _allow_time(seconds: int) -> None:
    """Let this process use as much more CPU time as a program may use."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, hard))


def _exit_reason(worker: socket.socket) -> str:
    """How the program ended, if it did."""
    worker.send(ENDED)
    code, timed_out = EXIT.unpack(worker.recv(EXIT.size))
    if timed_out:
        return "took too much CPU time"
    if code == STILL_RUNNING:
        return "closed its pipes"
    return f"ended by itself (status {code})" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
