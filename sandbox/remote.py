"""Link: the pipes to a program, and stand-ins for the objects that stay in the program."""

import builtins
import os
import select
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sandbox.messages import MessageBuffer, message_of, write_message
from sandbox.program import ARITHMETIC, COMPARISONS, ON_OBJECTS, UNARY
from sandbox.values import LOSSY, MUTABLE, decode, encode, named_builtin

_MOST_RESULT = 1 << 24
_KEPT_OUTPUT = 1 << 13
_MOST_OF_A_TEXT = 200
_MOST_TESTS = 1 << 16
_READ = 1 << 16


class Undecidable(TypeError):
    """A test needs an operation that cannot cross the process boundary."""


class ProgramError(Exception):
    """An exception of a class that the program defines."""


class Ended(BaseException):
    """The program has ended, or exceeded a limit."""


class Link:
    """The pipes to a program.

    Args:
        files: The file descriptors for requests, replies and printed output.
        exit_reason: Returns how the program ended, if it did.
        seconds: How long the program may take in total.
        most_output: How many bytes the program may print.

    `plain` says whether all that passed until now were calls with plain values, which lose nothing between processes.
    """

    def __init__(self, files: Sequence[int], exit_reason: Callable[[], str], seconds: float, most_output: int) -> None:
        self.requests, self.replies, self.output = files
        self._exit_reason = exit_reason
        self.begun, self.most_output = time.monotonic(), most_output
        self.deadline = self.begun + seconds
        self.printed, self.num_printed = bytearray(), 0
        self.ended = self.undecidable = ""
        self.plain = True
        self._functions: list[Callable[..., Any]] = []
        self._buffer = MessageBuffer(_MOST_RESULT)
        self._poll = select.poll()
        self._poll.register(self.replies, select.POLLIN)
        self._poll.register(self.output, select.POLLIN)

    def run(self, code: str) -> dict[str, Any]:
        """Run the program's code; return the names that it defined: for a module its name, otherwise None."""
        self._send(["run", code])
        return dict(self._answer({}))

    def judge(self, job: dict[str, Any]) -> tuple[list[str], str, str]:
        """Make the program run its tests too; return why each failed, and what prevented them or any verdict."""
        failures: list[str] = []
        try:
            self._send(["judge", job])
            while True:
                match self._receive():
                    case ["test", str(failure)] if len(failures) < _MOST_TESTS:
                        failures.append(failure)
                    case ["undecided", str(reason)]:
                        return [], "", reason
                    case ["error", str(error)]:
                        return [error] * len(job["pieces"]), error, ""
                    case ["done", _]:
                        return failures, "", ""
                    case _:
                        raise self._end("gave a result that cannot be read")
        except Ended:
            left = max(len(job["pieces"]) - len(failures), 1)
            return [*failures, *[self.ended] * left], self.ended, ""

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Make the program execute an operation.

        Raises:
            Exception: What the program raised, as the nearest built-in exception.
            Undecidable: If an argument cannot be passed.
            Ended: If the program has ended.
        """
        LOSSY.clear()
        self._send([operation, *(encode(each, self._keep) for each in arguments)])
        self.plain = self.plain and not LOSSY and operation in ("call", "value")
        given = {**dict(enumerate(arguments[1])), **arguments[2]} if operation == "call" else {}
        try:
            return self._answer(given)
        except StopIteration as error:
            if operation == "next":
                raise
            # StopIteration would silently end a loop of the test that makes this call.
            raise _program_error("StopIteration", error) from None

    def drain(self) -> None:
        """Read the rest of the output."""
        os.set_blocking(self.output, False)
        with suppress(Ended, BlockingIOError):
            while self._take_output():
                pass

    def _send(self, request: list[Any]) -> None:
        if self.ended:
            raise Ended
        try:
            write_message(self.requests, request)
        except BrokenPipeError:
            raise self._end(self._exit_reason()) from None

    def _answer(self, arguments: Mapping[Any, Any]) -> Any:
        while True:
            kind, *data = self._receive()
            if kind == "call":
                self._call_back(*data)
            elif kind == "raise":
                raise self._exception(*data)
            else:
                value, changes, plain = decode(data[0], self._find), *(data[1:] or ((), True))
                self._change(arguments, changes)
                self.plain = self.plain and plain is True
                return value

    def _receive(self) -> list[Any]:
        try:
            while (message := self._buffer.take()) is None:
                left = self.deadline - time.monotonic()
                if left <= 0 or not (ready := self._poll.poll(left * 1000)):
                    raise self._end("timed out")
                files = {file for file, _ in ready}
                if self.output in files and not self._take_output():
                    self._poll.unregister(self.output)
                if self.replies in files:
                    part = os.read(self.replies, _READ)
                    if not part:
                        raise self._end(self._exit_reason())
                    self._buffer.add(part)
        except (ValueError, RecursionError) as error:
            raise self._end(f"gave a result that cannot be read ({error})") from None
        if not isinstance(message, list) or not message:
            raise self._end("gave a result that cannot be read")
        return message

    def _take_output(self) -> bool:
        part = os.read(self.output, _READ)
        self.num_printed += len(part)
        self.printed += part[: _KEPT_OUTPUT - len(self.printed)]
        if self.num_printed > self.most_output:
            raise self._end("printed too much")
        return bool(part)

    def _call_back(self, place: int, args: Any, options: Any) -> None:
        try:
            given, named = decode(args, self._find), decode(options, self._find)
            reply = ["value", encode(self._functions[place](*given, **named), self._keep)]
        except StopIteration:
            reply = ["stop"]
        except Exception as error:
            reply = ["raise", type(error).__name__, message_of(error), str(error)[:_MOST_OF_A_TEXT]]
        self._send(reply)

    def _change(self, arguments: Mapping[Any, Any], changes: Any) -> None:
        """Apply the changes that a call made to its arguments, which are keyed by position or name."""
        for place, data in changes:
            changed, value = arguments[place], decode(data, self._find)
            if any(type(part) in MUTABLE for part in changed):
                self.plain = False  # the tests may hold the part, too
            if type(changed) not in MUTABLE or type(value) is not type(changed):
                raise self._end("gave a result that cannot be read")
            if isinstance(changed, list | bytearray | array):
                changed[:] = value
            elif isinstance(changed, deque):
                changed.clear()
                changed.extend(value)
            else:
                changed.clear()
                changed.update(value)

    def _keep(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return reference_of(value)
        if reference := named_builtin(value):
            return reference
        self.plain = False
        if isinstance(value, Iterator):
            self._functions.append(value.__next__)
            return ["iterator", len(self._functions) - 1]
        if not callable(value) or isinstance(value, type):
            # Remembered, because a test that catches the exception must not get a verdict.
            self.undecidable = f"an object of the tests' own ({type(value).__name__}) cannot be passed to a program"
            raise Undecidable(self.undecidable)
        self._functions.append(value)
        return ["function", len(self._functions) - 1]

    def _find(self, reference: list[Any]) -> Any:
        kind, name = reference
        if kind == "builtin" and isinstance(found := getattr(builtins, name), type):
            return found
        if kind != "kept" or not isinstance(name, int):
            raise ValueError(f"a reference of kind {kind}")
        self.plain = False
        return Remote(self, ["kept", name])

    def _exception(self, kinds: Any, text: Any, args: Any = None) -> Exception:
        """The built-in exception nearest to what the program raised, never one that would end the checker."""
        for place, name in enumerate(kinds):
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception) and kind is not Exception:
                with suppress(Exception):
                    given = decode(args, self._find) if place == 0 else [f"{kinds[0]}: {text}"]
                    return kind(*given)
        self.plain = False
        return _program_error(kinds[0], text)

    def _end(self, reason: str) -> Ended:
        self.ended = reason
        return Ended()


def _program_error(name: str, text: object) -> ProgramError:
    return type(name, (ProgramError,), {})(text)


class Remote:
    """Stands for an object that stays in the program; every operation on it runs there.

    It is never equal to a plain value, and plain values are never sent to the program for a comparison or arithmetic
    with it. So the program does not learn which result a test expects.
    """

    __slots__ = ("_link", "_reference")

    def __init__(self, link: Link, reference: list[Any]) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_reference", reference)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Make the program execute the call."""
        return ask("call", self, args, options)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Remote) and ask("isinstance", instance, self)


def reference_of(remote: Remote) -> list[Any]:
    """The reference that stands for an object in messages between the two processes."""
    return object.__getattribute__(remote, "_reference")


def ask(operation: str, remote: Remote, *arguments: Any) -> Any:
    """Make the program execute an operation on an object; raises the same exceptions as `Link.ask`."""
    return object.__getattribute__(remote, "_link").ask(operation, remote, *arguments)


def _on_object(operation: str) -> Callable[..., Any]:
    return lambda self, *arguments: ask(operation, self, *arguments)


def _between_objects(operation: str) -> Callable[[Remote, Any], Any]:
    return lambda self, other: ask(operation, self, other) if isinstance(other, Remote) else NotImplemented


for _operation in (*ON_OBJECTS, *UNARY):
    setattr(Remote, f"__{_operation}__", _on_object(_operation))
for _operation in (*COMPARISONS, *ARITHMETIC):
    setattr(Remote, f"__{_operation.strip('_')}__", _between_objects(_operation))
