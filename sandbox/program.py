"""Program: the process that runs untrusted code.

If the program is trusted not to fake its verdict, the process runs its tests too, and tells which fail. Otherwise it
knows no tests and reports no verdict: it receives the code, then calls to make, and answers with what they return.
Whatever the code does to this process, it can only change these answers.
"""

import builtins
import fcntl
import gc
import linecache
import operator
import os
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from sandbox.messages import Closed, Refused, message_of, read_message, write_message
from sandbox.runner import run_tests
from sandbox.values import LOSSY, MUTABLE, decode, encode, named_builtin

REQUESTS, REPLIES = 3, 4
"""The file descriptors of the program's two pipes."""

ON_OBJECTS = (
    *("getattr", "setattr", "delattr", "getitem", "setitem", "delitem"),
    *("iter", "next", "len", "bool", "str", "repr", "hash"),
)
COMPARISONS = ("eq", "lt", "le", "gt", "ge")
UNARY = ("neg", "pos", "abs", "invert")
ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "matmul", "and_", "or_", "xor")

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "value": lambda value: value,
    "call": lambda function, args, options: function(*args, **options),
    **{
        name: getattr(builtins, name, None) or getattr(operator, name)
        for name in (*ON_OBJECTS, "isinstance", *UNARY, *COMPARISONS, *ARITHMETIC)
    },
}
_NAME, _FILE = "program", "<program>"
_ABOVE = 32


def serve(output: int, requests: int, replies: int) -> None:
    """Answer requests until the checker ends; close all other file descriptors.

    Args:
        output: The file descriptor for what the code prints.
        requests: The file descriptor that requests are read from.
        replies: The file descriptor that replies are written to.
    """
    null = os.open(os.devnull, os.O_RDWR)
    files = [fcntl.fcntl(file, fcntl.F_DUPFD, _ABOVE) for file in (null, output, output, requests, replies)]
    for place, file in enumerate(files):
        os.dup2(file, place)
    os.closerange(len(files), 2 * _ABOVE)
    random.seed(0)
    gc.enable()
    sys.argv = [_NAME]
    module = types.ModuleType(_NAME)
    module.__file__ = _FILE
    sys.modules[_NAME] = module
    with suppress(Closed, BrokenPipeError):
        server = _Server(module)
        while True:
            request = read_message(REQUESTS)
            if request[0] == "judge":
                return server.judge(request[1])
            server.answer(request)


class _Server:
    def __init__(self, module: types.ModuleType) -> None:
        self.module, self.kept = module, []

    def judge(self, job: dict[str, Any]) -> None:
        """Run code and its tests in this process, which is trusted to tell what became of them."""
        names, said = self.module.__dict__, ["done", ""]
        try:
            self._run(job["code"])
            if job["entry_point"] not in (None, *names):
                raise NameError(f"name {job['entry_point']!r} is not defined")
            own = {name for name, value in names.items() if name[:2] != "__" and type(value) is not types.ModuleType}
            run_tests(
                job,
                self.module,
                self._with_helpers(job, own),
                own,
                lambda failure: write_message(REPLIES, ["test", failure]),
            )
        except Refused as refused:
            said = ["undecided", str(refused)]
        except BaseException as error:  # a program's sys.exit is an error like any other
            said = ["error", message_of(error)]
        for stream in (sys.__stdout__, sys.__stderr__):
            with suppress(Exception):
                stream.flush()  # type: ignore[union-attr]
        write_message(REPLIES, said)

    def _with_helpers(self, job: dict[str, Any], own: set[str]) -> dict[str, Any]:
        """The program's names; a helper of the prelude that the tests use is the prelude's, not the program's."""
        names = self.module.__dict__
        used = {name for name in own.intersection(job["reached"]) if f"def {name}(" in job["prelude"]}
        if not used - {job["entry_point"]}:
            return names
        helpers: dict[str, Any] = {}
        with suppress(Exception):
            exec(compile(job["prelude"], _FILE, "exec", dont_inherit=True), helpers)
        changed = {
            name: helpers[name]
            for name in used - {job["entry_point"]}
            if name in helpers and getattr(names[name], "__code__", None) != getattr(helpers[name], "__code__", None)
        }
        return {**names, **changed} if changed else names

    def answer(self, request: list[Any]) -> None:
        """Execute a request and write the reply."""
        try:
            name, *data = request
            reply = self._run(data[0]) if name == "run" else self._operate(name, data)
        except BaseException as error:  # a program's sys.exit is an error like any other
            reply = ["raise", [kind.__name__ for kind in type(error).__mro__], _shown(error), self._args(error)]
        with suppress(Exception):
            sys.stdout.flush()
        with suppress(Exception):
            sys.stderr.flush()
        try:
            write_message(REPLIES, reply)
        except (RecursionError, MemoryError) as error:
            write_message(REPLIES, ["raise", [type(error).__name__, "Exception"], "of the result"])

    def _run(self, code: str) -> list[Any]:
        linecache.cache[_FILE] = len(code), None, code.splitlines(keepends=True), _FILE  # for inspect.getsource
        exec(compile(code, _FILE, "exec", dont_inherit=True), self.module.__dict__)
        defined = [(name, value) for name, value in self.module.__dict__.items() if type(name) is str]
        pairs = [[name, value.__name__ if type(value) is types.ModuleType else None] for name, value in defined]
        return ["value", ["list", *(["tuple", *pair] for pair in pairs)]]

    def _operate(self, name: str, data: list[Any]) -> list[Any]:
        arguments = [decode(each, self._find) for each in data]
        if name != "call":
            return ["value", self._encode(_OPERATIONS[name](*arguments)), [], not LOSSY]
        given = {**dict(enumerate(arguments[1])), **arguments[2]}
        before = {place: encode(each, self._keep) for place, each in given.items() if type(each) in MUTABLE}
        result = self._encode(_OPERATIONS[name](*arguments))
        after = {place: encode(given[place], self._keep) for place in before}
        return [
            "value",
            result,
            [[place, after[place]] for place in before if after[place] != before[place]],
            not LOSSY,
        ]

    def _args(self, error: BaseException) -> Any:
        try:
            return self._encode(list(error.args))
        except Exception:
            return ["list", _shown(error)]

    def _encode(self, value: Any) -> Any:
        try:
            return encode(value, self._keep)
        except RecursionError:
            return self._keep(value)

    def _keep(self, value: Any) -> list[Any]:
        if isinstance(value, type) and (reference := named_builtin(value)):
            return reference
        self.kept.append(value)
        return ["kept", len(self.kept) - 1]

    def _find(self, reference: list[Any]) -> Any:
        kind, name = reference
        if kind == "kept":
            return self.kept[name]
        if kind == "global":
            return self.module.__dict__[name]
        if kind == "builtin":
            return getattr(builtins, name)

        def call_back(*args: Any, **options: Any) -> Any:
            write_message(REPLIES, ["call", name, encode(args, self._keep), encode(options, self._keep)])
            outcome, *value = read_message(REQUESTS)
            if outcome == "stop":
                raise StopIteration
            if outcome == "raise":
                kind = getattr(builtins, value[0], None)
                if isinstance(kind, type) and issubclass(kind, Exception):
                    raise kind(value[2])
                raise RuntimeError(value[1])
            return decode(value[0], self._find)

        return call_back if kind == "function" else _items(call_back)


def _items(following: Callable[[], Any]) -> Iterator[Any]:
    """The items of an iterator that lives in the checker."""
    while True:
        try:
            item = following()
        except StopIteration:
            return
        yield item


def _shown(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except Exception:
        return "?"
