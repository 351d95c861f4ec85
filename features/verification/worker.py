"""Worker: the process in which a plain verifier function judges responses, so that it can be stopped."""

import importlib
import os
import resource
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from multiprocessing.connection import Connection
from numbers import Real
from typing import Any

from features.texts.tasks import Task
from features.verification.verdict import Verdict
from ranking.texts import encodable

Rule = Callable[[str, Task], "float | Verdict"]

OUT_OF_MEMORY = 77
"""The exit status of a worker that had no memory left, whose state cannot be trusted any more."""

_MOST_SHOWN = 200
# Labels are stored in fp32.
_LARGEST = 3.4e38
_NUMBERS: Any = (Real, Decimal)
_ORPHANED_AFTER = 10


def serve(
    connection: Connection, rule: Rule, timeout: float, memory: float | None, loaded_first: Sequence[str] = ()
) -> None:
    """Judge what comes through a connection until it is closed; each verdict goes back as soon as it is there.

    Args:
        connection: Gives pairs of a task and some responses to it, and takes a label, reason and answer for each.
        rule: What judges.
        timeout: What a response may take before whoever waits for the verdict kills this process; it ends itself after
            ten times that, in case nobody waits any more.
        memory: In GB of addresses; None for no limit.
        loaded_first: Modules to load before it says that it is ready.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for module in loaded_first:
        importlib.import_module(module)
    if memory is not None:
        with suppress(ValueError, OSError):  # macOS has no such limit, and a lower one may be in force
            resource.setrlimit(resource.RLIMIT_AS, (int(memory * 1e9), int(memory * 1e9)))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(None)
        while True:
            task, responses = connection.recv()
            for response in responses:
                signal.setitimer(signal.ITIMER_REAL, _ORPHANED_AFTER * timeout)
                verdict = judge(rule, response, task)
                signal.setitimer(signal.ITIMER_REAL, 0)
                connection.send((verdict.label, verdict.reason, verdict.answer))


def judge(rule: Rule, response: str, task: Task) -> Verdict:
    """The verdict of a rule, whatever the rule does; one that runs out of memory ends the process."""
    try:
        return _as_verdict(rule(response, task))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException as error:  # a rule that calls sys.exit has failed like any other
        return Verdict(None, _in_few_words(f"{type(error).__name__}: {_message(error)}"))


def _as_verdict(found: Any) -> Verdict:
    verdict = found if isinstance(found, Verdict) else Verdict(found)
    reason = _in_few_words(str(verdict.reason))
    answer = None if verdict.answer is None else encodable(str(verdict.answer))
    if verdict.label is None:
        return Verdict(None, reason, answer)
    # A single element of numpy or torch is the number it holds.
    label: Any = verdict.label
    label = label.item() if hasattr(label, "item") else label
    if not isinstance(label, _NUMBERS) or not abs(label) <= _LARGEST:
        raise TypeError(f"expected a finite number, a Verdict or None, and the verifier gave {verdict.label!r}")
    return Verdict(float(label), reason, answer)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an error that cannot say what it is
        return "no message"


def _in_few_words(reason: str) -> str:
    return encodable(" ".join(reason.split()))[:_MOST_SHOWN]
