"""Checker: the process that holds the tests, and evaluates them upon what the program answers.

Program and checker are two processes, and neither was forked from the other. Each name that the tests leave open stands
for the program's object of that name: to call it asks the program, and plain results come back as copies. So every
comparison of plain values is made here, where the program's code has never been.
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
from contextlib import suppress
from types import CodeType
from typing import Any

from sandbox.messages import Closed, read_message, write_message
from sandbox.remote import Link, Remote, Undecidable, ask, message_of

BEGUN, DONE, ENDED = b"b", b"d", b"e"
"""What a checker says to its worker: that it has a job, that the result is written, that the program has ended."""

STILL_RUNNING = 1 << 16
"""What the worker answers to the last one, in place of the status."""

EXIT = struct.Struct("!i?")
"""How it answers: the status, and whether the program's processor time was up."""

_MOST_MESSAGES = 1 << 13
_TESTS = "tests"


def check(worker: socket.socket, jobs: int, results: int, limits: dict[str, Any]) -> None:
    """Evaluate jobs until there are no more.

    Args:
        worker: Gives the pipes to a program for each job.
        jobs: Gives the jobs.
        results: Takes what came of them.
        limits: Of programs.
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
    """What came of a program and its tests, as plain values.

    Args:
        job: `code`, `tests`, and what the tests need: `setup`, `prelude` and `entry_point`.
        link: To the program that shall be it.
    """
    random.seed(0)
    sources = [job["setup"], *job["tests"]]
    try:
        setup, *tests = [compile(source, "<test>", "exec", dont_inherit=True) for source in sources]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return _result(link, [], undecided=f"a test cannot be read: {message_of(error)}")
    try:
        namespace = _namespace(job, link, _names(setup, *tests))
        exec(setup, namespace)
    except Undecidable as error:
        return _result(link, [], undecided=str(error))
    except BaseException as error:  # a test that calls sys.exit has not passed
        reason = link.ended or message_of(error)
        return _result(link, [reason] * len(tests), error=reason)
    failures = []
    for test in tests:
        failure = ""
        try:
            exec(test, namespace)
        except BaseException as error:
            if isinstance(error, ModuleNotFoundError) and error.name:
                return _result(link, [], undecided=f"a test imports {error.name}, which is not there")
            failure = message_of(error)
        if link.undecidable:
            return _result(link, [], undecided=link.undecidable)
        failures.append(link.ended or failure)
    return _result(link, failures, error=link.ended)


class _Global:
    """A name of the program's, whose value is asked for each time."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote


class _Names(dict[str, Any]):
    """What the tests see."""

    def __getitem__(self, name: str) -> Any:
        """The value of a name now."""
        value = super().__getitem__(name)
        return ask("value", value.remote) if isinstance(value, _Global) else value


def _namespace(job: dict[str, Any], link: Link, used: set[str]) -> dict[str, Any]:
    """What the tests see: the prelude's own definitions, modules that they use, and the program's objects.

    A module is the checker's own, for the program may have changed what it imported.
    """
    namespace = _Names({"__name__": _TESTS})
    defined, entry_point = link.run(job["code"]), job["entry_point"]
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
    if entry_point is None and used and all(hasattr(builtins, name) for name in used):
        raise Undecidable("the tests use nothing of the program; entry_point must say what they test")
    return namespace


def _names(*codes: CodeType) -> set[str]:
    """Every name that is used in some code, those of attributes included."""
    found: set[str] = set()
    for code in codes:
        found.update(code.co_names, _names(*(each for each in code.co_consts if isinstance(each, CodeType))))
    return found


def _is_only_owner(name: str, job: dict[str, Any]) -> bool:
    """Whether the tests use a name for its attributes alone, as one does with a module."""
    nodes = [node for source in (job["setup"], *job["tests"]) for node in ast.walk(ast.parse(source))]
    owners = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    places = [id(node) for node in nodes if isinstance(node, ast.Name) and node.id == name]
    return bool(places) and owners.issuperset(places)


def _result(link: Link, failures: list[str], error: str = "", undecided: str = "") -> dict[str, Any]:
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
        "seconds": time.monotonic() - link.begun,
    }


def _allow_time(seconds: int) -> None:
    """Let this process use some more processor time, though no more than a program."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, hard))


def _exit_reason(worker: socket.socket) -> str:
    """How the program came to its end, if it did."""
    worker.send(ENDED)
    code, timed_out = EXIT.unpack(worker.recv(EXIT.size))
    if timed_out:
        return "took too much processor time"
    if code == STILL_RUNNING:
        return "closed its pipes"
    return f"ended by itself (status {code})" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
