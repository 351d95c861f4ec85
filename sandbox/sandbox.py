"""Sandbox: runs untrusted code that a language model has written, and says whether it passes tests.

Each program gets its own process, forked from a small interpreter that has never run a program, and killed afterwards.
Another process, the checker, watches it, and reads what became of the tests from a private pipe.

With `trust="program"`, the tests run in the program's process, as in a plain interpreter, and so do pytest's functions
and unittest's classes. A program that was made to fake its verdict can do so there; one that only ends itself, prints
or breaks things does not pass. With `trust="tests"`, only the checker holds the tests. It asks the program to make the
calls that the tests make, and compares the results as plain values. So a program passes only if it gives the right
results. If it fails with anything but plain values, its tests run once more in its own process: if they fail there too,
it has failed; if they pass, there is no verdict. It never passes that way.

Protections where the kernel has user namespaces and seccomp:

- Faked passes, with `trust="tests"`. The program's process never holds the expected results before its verdict is
  settled. Nothing that it prints, patches, exits with or raises is a pass. The checker rebuilds its results from JSON,
  as built-in types only. An object of a class that the program defines is never equal to a plain value.
- Processes. A program cannot start, see, trace or signal any process but itself. CPU time and wall-clock time are
  limited. When a program ends, the kernel kills everything in its namespace.
- Memory (the address space of the process), threads, open files, the size of each file, the size of all files together,
  and output are limited.
- Files. A program sees the interpreter's files, read-only, a few devices, and an empty `/tmp` in memory, which is
  removed afterwards; no `/proc`, no home, no configuration. It has no capability and can gain none.
- Network. Its namespace has no network interface that is up, and it cannot create sockets, shared memory or message
  queues.
- The environment and the standard input are empty. Random numbers start from the same seed in each program.

Where namespaces are unavailable, Landlock and seccomp take their place. Then programs still cannot read or write files
outside their folder, but they can see sizes and times of files. The folder is on disk; only the size of each file is
limited. Threads count together with all threads of the user (root's are not limited). `isolation="required"` refuses to
start if network, files or processes would be unprotected; `auto` warns; `off` leaves files readable and writable,
without a warning. Without seccomp, as on any system but Linux, only the limits remain, an empty environment, and a kill
of all descendants that can be found; a program could then manipulate the checker.

Not covered: faults of the kernel; side channels (time, caches, load); a program that knows the tests from elsewhere and
returns memorized answers; and, with `trust="tests"`, tests that let the program decide what is right. Such tests
compare two objects of the program's classes, ask an object for its type, length or truth, compare with an argument that
the program may change (`f(x) == sorted(x)`), or state `not abs(f() - 3) > 1e-6`, which NaN passes anywhere.

Honest programs fail if they import packages outside the standard library, start other programs or print more than the
limit. Tests get no verdict if they cannot be read, import a package that is not installed, need a fixture of pytest,
ask nothing of the program, or find nothing wrong because they check nothing.

Bubblewrap (0.8 and 0.11) was tried in place of our namespaces. Around each program it costs a new interpreter for each:
26 programs a second where this ran 82 to 207 (two busy cores). Around a worker, it leaves open to programs what then is
shared: fork, execve, ptrace, memfd_create, shmget, new user namespaces; so our seccomp filter, a namespace of process
numbers and an emptied `/tmp` for each program must stay, and Landlock where user namespaces are forbidden, for there
bubblewrap does not start either. It would save about 100 lines and add a binary.
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
from sandbox.plan import Plan, plan_of
from sandbox.worker_process import LayerMissing, WorkerLost, WorkerProcess

S = TypeVar("S", bound="Sandbox")

Isolation = Literal["required", "auto", "off"]
Trust = Literal["program", "tests"]

_PROTECTED_BY = {
    "network": {NAMESPACES, SECCOMP},
    "files": {NAMESPACES, LANDLOCK},
    "processes": {NAMESPACES, SECCOMP},
}
_PASSES_TOGETHER = "passes only in one process with its tests"
_AHEAD = 32
_IN_A_ROW = 5


@dataclass(frozen=True)
class Limits:
    """The resources that a program may use.

    Args:
        seconds: Wall-clock seconds for a program and all its tests.
        cpu_seconds: CPU seconds for a program and all its tests.
        memory_mb: Address space of the program's process, in MB.
        threads: Threads that may run at the same time.
        file_mb: Size of each file that the program writes, in MB.
        folder_mb: Size of all files that the program writes, in MB.
        output_kb: Size of what the program prints, in kB.
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
    """Code, and the tests that it must pass.

    Args:
        code: A Python module.
        tests: Pieces of Python code; each raises nothing if the code is right.
        setup: Code to run before the tests.
        prelude: Code that the tests may use, such as a signature with its imports and helpers.
        entry_point: The function under test; the code must define it, even if a built-in function has the same name.
    """

    code: str
    tests: Sequence[str] = ()
    setup: str = ""
    prelude: str = ""
    entry_point: str | None = None

    @property
    def plan(self) -> Plan:
        """What its tests ask."""
        return plan_of(self.setup, tuple(self.tests), self.entry_point)


@dataclass(frozen=True)
class Outcome:
    """The result of running a program and its tests.

    Args:
        failures: Why each test failed; an empty text for a test that passed.
        error: What ended the program or prevented its tests; empty if nothing did.
        undecided: Why there is no verdict, through no fault of the program; then there are no failures.
        output: The first 8 kB of what the program printed.
        seconds: How long the program and its tests took.
    """

    failures: Sequence[str] = ()
    error: str = ""
    undecided: str = ""
    output: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the program passed every test."""
        return not (self.error or self.undecided or any(self.failures))


@dataclass
class _Task:
    """A program, where its tests run, its outcome once it is known, and an earlier one with its tests apart."""

    program: Program
    trust: Trust
    outcome: Outcome | None = None
    apart: Outcome | None = None

    @property
    def shared(self) -> Any:
        """Equal for tasks that can share a checker: all, unless it holds their tests."""
        program = self.program
        return None if self.trust == "program" else (program.plan, program.prelude, program.entry_point)

    @property
    def message(self) -> dict[str, Any]:
        """What the checker needs."""
        return {**vars(self.program), **self.program.plan.fields, "trust": self.trust}


class Sandbox:
    """Workers that run programs; a context manager.

    Args:
        limits: The limits of each program.
        isolation: What to do if protections are missing: `required` refuses to start, `auto` warns, `off` ignores it.
        workers: How many programs run at a time; None for one more than the number of CPU cores, as workers also wait.
        path: Where the options stand in the yaml, for error messages.
        trust: Whether to trust the `program`, whose process then runs its tests too, or only the `tests`, which then
            run in another process.

    Raises:
        ConfigError: If a protection is required but missing, or no worker starts.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        isolation: Isolation = "auto",
        workers: int | None = None,
        path: str = "features.verifier",
        trust: Trust = "program",
    ) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.limits, self.path = limits, path
        self.trust: Trust = trust
        self.layers = [SECCOMP] if isolation == "off" else list(LAYERS)
        self.missing: dict[str, str] = {}
        self._ready = selectors.DefaultSelector()
        self._workers: list[WorkerProcess] = []
        self._again: list[_Task] = []
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
        """Whether network, files and processes are protected from programs."""
        return {name: bool(layers & set(self.layers)) for name, layers in _PROTECTED_BY.items()}

    def run(self, programs: Iterable[Program]) -> Iterator[Outcome]:
        """Yield the outcome of each program in order; read only as many programs ahead as keep the workers busy.

        Args:
            programs: Any number of programs.

        Raises:
            ConfigError: If the workers fail again and again.
            ValueError: If the sandbox is closed, as it also is after an error.
        """
        if not self._workers:
            raise ValueError("the sandbox is closed")
        left, pending, waiting = iter(programs), deque[_Task](), list[_Task]()
        try:
            while True:
                missing = _AHEAD * len(self._workers) - len(pending)
                read = [self._task(program) for program in islice(left, max(missing, 0))]
                pending += read
                waiting += (task for task in read if task.outcome is None)
                waiting[:0] = self._again
                self._again.clear()
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
            # The caller needs no more outcomes: drop the running programs, but keep the sandbox usable.
            self._again.clear()
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
        """Start the first worker, which finds out which isolation layers are available."""
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

    def _task(self, program: Program) -> _Task:
        problem = program.plan.problem
        return _Task(program, self.trust, Outcome(undecided=problem) if problem else None)

    def _next(self, worker: WorkerProcess, waiting: list[_Task]) -> int:
        """The index of a worker's next task: best one with the same tests as its last, else with no other worker's."""
        others = [other.tests for other in self._workers if other is not worker]
        places = range(len(waiting))
        own = (place for place in places if waiting[place].shared == worker.tests)
        free = (place for place in places if waiting[place].shared not in others)
        return next(own, next(free, 0))

    def _give(self, place: int, task: "_Task") -> None:
        try:
            self._workers[place].give(task, task.shared, task.message)
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
        plain = result.pop("plain", True)
        outcome = late if "late" in result else Outcome(**result)
        if task.apart is not None:
            task.outcome = Outcome(undecided=_PASSES_TOGETHER) if outcome.passed else task.apart
        elif plain or outcome.passed or outcome.undecided:
            task.outcome = outcome
        else:
            # The program may have failed only because an object of it cannot pass between two processes.
            task.trust, task.apart = "program", outcome
            self._again.append(task)

    def _lose(self, place: int, lost: WorkerLost) -> None:
        """Record that a program has no verdict, and start another worker."""
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
