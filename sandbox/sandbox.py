"""Sandbox: runs code that a language model has written, which is hostile, and tells whether it passes tests.

Each program gets a process of its own, forked from a small interpreter that has never run any, and killed afterwards.
Another process, the checker, holds the tests, those of one problem; it too is forked from that interpreter. It asks the
program to make the calls that the tests make, and compares what comes back as plain values, so that a program passes
only by giving the right results.

What is covered, where the kernel has user namespaces and seccomp:

- Faked passes. The program's process never holds the tests or what they expect, and nothing that it prints, patches,
  exits with or raises is a verdict. Its results are rebuilt in the checker from JSON, as built-in types only; an object
  of its own is equal to no plain value.
- Processes. It cannot start, see, trace or signal any but itself. Processor and wall-clock time are limited; at the end
  of a program the kernel kills whatever is in its namespace.
- Memory (addresses of the process), threads, open files, the size of each file and of all together, and output are
  limited.
- Files. It sees the interpreter's own, read-only, a few devices, and an empty `/tmp` in memory, which is gone
  afterwards; no `/proc`, no home, no configuration. It has no capability, and can gain none.
- Network. It has a namespace with no interface that is up, and can make no socket. Nor can it use shared memory or
  message queues.
- The environment is empty, the standard input too, and random numbers begin at the same seed in each program.

Where namespaces are not to be had, Landlock and seccomp take their place. Then outside files cannot be read or written,
but their sizes and times can be seen, the folder is on disk and limited file by file only, and threads are limited with
all others of the user (root's are not limited). `isolation="required"` refuses to start where network, files or
processes would be open; `auto` warns; `off` leaves files open to be read and written, and says nothing. Without
seccomp, as on any system but Linux, there remain the limits, an empty environment, and a kill of all descendants that
can be found; and a program could reach into the checker.

What is not covered: faults of the kernel; what can be learned from time, caches and load; a program that knows the
tests from elsewhere and answers by heart; and tests that leave it to the program what is right. Such are comparisons of
two objects of its own classes, questions for an object's kind, length or truth, a comparison with an argument that the
program may change (`f(x) == sorted(x)`), and `not abs(f() - 3) > 1e-6`, which NaN passes anywhere.

What honest programs cannot do here, and fail by: import packages outside the standard library, start other programs,
print more than the limit; and, since only plain values pass between two processes, have the tests catch exceptions of
the program's own classes, use the attributes of named tuples and of other classes derived from plain ones, compare an
object of its own with a plain value, look for a plain value in one, find that a result is the very argument, or see
changes to what an argument holds but through the argument. All published solutions of MBPP pass nevertheless. Tests
that import what is not there, pass objects of classes of their own, or use nothing of the program get no verdict.
"""

import os
import selectors
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Literal, TypeVar

from registry import ConfigError
from registry.ranges import Count, Few, Positive
from sandbox.isolation.confinement import LANDLOCK, LAYERS, NAMESPACES, SECCOMP
from sandbox.worker_process import LayerMissing, WorkerLost, WorkerProcess

S = TypeVar("S", bound="Sandbox")

Isolation = Literal["required", "auto", "off"]

_PROTECTED_BY = {
    "network": {NAMESPACES, SECCOMP},
    "files": {NAMESPACES, LANDLOCK},
    "processes": {NAMESPACES, SECCOMP},
}
_AHEAD = 32
_IN_A_ROW = 5


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Args:
        seconds: With all its tests, by the clock on the wall.
        cpu_seconds: Ditto, of processor time.
        memory_mb: Addresses of its process.
        threads: At a time.
        file_mb: Of each file that it writes.
        folder_mb: Of all of them together.
        output_kb: Of what it prints.
    """

    seconds: Positive = 20.0
    cpu_seconds: Count = 5
    memory_mb: Count = 1000
    threads: Few = 32
    file_mb: Count = 16
    folder_mb: Count = 64
    output_kb: Count = 1000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Program:
    """Code, and what it must pass.

    Args:
        code: A module of Python.
        tests: Each a piece of Python that raises nothing if the code is right.
        setup: What is run before them.
        prelude: Code that the tests may lean on, such as a signature with its imports and helpers.
        entry_point: The function under test: the code must define it, even where it has a built-in one's name.
    """

    code: str
    tests: Sequence[str] = ()
    setup: str = ""
    prelude: str = ""
    entry_point: str | None = None

    @property
    def judged_by(self) -> dict[str, Any]:
        """All but the code: a checker is for programs that have this in common."""
        return {name: value for name, value in vars(self).items() if name != "code"}


@dataclass(frozen=True)
class Outcome:
    """What came of a program.

    Args:
        failures: Why each test failed; empty for one that passed.
        error: What ended the program, or kept it from its tests; empty where nothing did.
        undecided: Why nothing can be said, through no fault of the program; then there are no failures.
        output: The first 8 kB of what it printed.
        seconds: How long it took with its tests.
    """

    failures: Sequence[str] = ()
    error: str = ""
    undecided: str = ""
    output: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all is well."""
        return not (self.error or self.undecided or any(self.failures))


@dataclass
class _Task:
    """A program, and its outcome once there is one."""

    program: Program
    outcome: Outcome | None = None


class Sandbox:
    """Workers that run programs; a context manager.

    Args:
        limits: Of each program.
        isolation: Whether to start where protections are missing.
        workers: How many programs run at a time; None for one more than there are processors, for workers also wait.
        path: Where the options stand in the yaml.

    Raises:
        ConfigError: If a protection is required and missing, or no worker starts.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        isolation: Isolation = "auto",
        workers: int | None = None,
        path: str = "features.verifier",
    ) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.limits, self.path = limits, path
        self.layers = [SECCOMP] if isolation == "off" else list(LAYERS)
        self.missing: dict[str, str] = {}
        self._ready = selectors.DefaultSelector()
        self._workers: list[WorkerProcess] = []
        self._lost = 0
        try:
            self._workers.append(self._first_worker())
            self._check(isolation)
            self._workers += [self._worker() for _ in range(workers - 1 if workers else cores or 1)]
        except BaseException:
            self.close()
            raise

    @property
    def protected(self) -> dict[str, bool]:
        """Whether network, files and processes are out of reach of programs."""
        return {name: bool(layers & set(self.layers)) for name, layers in _PROTECTED_BY.items()}

    def run(self, programs: Iterable[Program]) -> Iterator[Outcome]:
        """What came of each program, in their order; as many are read ahead as keep the workers busy.

        Args:
            programs: Any number.

        Raises:
            ConfigError: If the workers end again and again.
            ValueError: If the sandbox is closed, as it also is after an error.
        """
        if not self._workers:
            raise ValueError("the sandbox is closed")
        left, pending, waiting = iter(programs), deque[_Task](), list[_Task]()
        try:
            while True:
                missing = _AHEAD * len(self._workers) - len(pending)
                read = [_Task(program) for program in islice(left, max(missing, 0))]
                pending += read
                waiting += read
                for place, worker in enumerate(self._workers):
                    if worker.job is None and waiting:
                        self._give(place, waiting.pop(self._next(worker, waiting)))
                if not pending:
                    return
                if pending[0].outcome is None:
                    for key, _ in self._ready.select():
                        self._hear(key.data, key.fd)
                while pending and (outcome := pending[0].outcome) is not None:
                    pending.popleft()
                    yield outcome
        except GeneratorExit:
            # The sandbox goes on, without what nobody wants to know any more.
            for place, worker in enumerate(self._workers):
                if worker.job is not None:
                    self._replace(place)
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()
        self._workers = []
        self._ready.close()

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _first_worker(self) -> WorkerProcess:
        """The worker that finds out which layers there are."""
        while True:
            try:
                return self._worker()
            except LayerMissing as missing:
                layer, reason = missing.args
                self.missing[layer] = reason
                self.layers.remove(layer)

    def _worker(self) -> WorkerProcess:
        try:
            worker = WorkerProcess(asdict(self.limits), self.layers)
        except WorkerLost as lost:
            raise ConfigError(
                self.path, f"no worker of the sandbox starts: {lost}.", cure="see above for why"
            ) from lost
        for file in (worker.results, worker.status):
            self._ready.register(file, selectors.EVENT_READ, worker)
        return worker

    def _check(self, isolation: Isolation) -> None:
        open_to = [name for name, protected in self.protected.items() if not protected]
        if not open_to or isolation == "off":
            return
        reasons = "; ".join(f"no {layer} ({reason})" for layer, reason in self.missing.items())
        problem = f"programs cannot be kept from {' and '.join(open_to)}: {reasons}."
        if isolation == "required":
            cure = "allow user namespaces, or use a kernel with Landlock and seccomp"
            raise ConfigError(f"{self.path}.isolation", problem, cure=cure)
        warnings.warn(f"{self.path}: {problem}", RuntimeWarning, stacklevel=3)

    def _next(self, worker: WorkerProcess, waiting: list[_Task]) -> int:
        """The place of what a worker does next: best what has the tests of its last one, or else no other's."""
        others = [other.tests for other in self._workers if other is not worker]
        places = range(len(waiting))
        own = (place for place in places if waiting[place].program.judged_by == worker.tests)
        free = (place for place in places if waiting[place].program.judged_by not in others)
        return next(own, next(free, 0))

    def _give(self, place: int, task: "_Task") -> None:
        try:
            self._workers[place].give(task, task.program.code, task.program.judged_by)
        except WorkerLost as lost:
            self._lose(place, lost)

    def _hear(self, worker: WorkerProcess, file: int) -> None:
        if worker not in self._workers:
            return
        try:
            result = worker.hear(file)
        except WorkerLost as lost:
            self._lose(self._workers.index(worker), lost)
            return
        if result is None:
            return
        task, worker.job, self._lost = worker.job, None, 0
        late = Outcome(["timed out"] * len(task.program.tests), "timed out", seconds=self.limits.seconds)
        task.outcome = late if "late" in result else Outcome(**result)

    def _lose(self, place: int, lost: WorkerLost) -> None:
        """Note that a program has no outcome, and start another worker."""
        if (task := self._workers[place].job) is not None:
            task.outcome = Outcome(undecided=f"the sandbox failed: {lost}")
        self._lost += 1
        if self._lost == _IN_A_ROW:
            raise ConfigError(self.path, f"the sandbox fails again and again: {lost}.", cure="see above for why")
        self._replace(place)

    def _replace(self, place: int) -> None:
        worker = self._workers[place]
        for file in (worker.results, worker.status):
            self._ready.unregister(file)
        worker.close()
        try:
            self._workers[place] = self._worker()
        except LayerMissing as missing:
            raise ConfigError(self.path, f"a worker of the sandbox has lost its {missing.args[0]}.") from missing
