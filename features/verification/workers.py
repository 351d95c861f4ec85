"""Workers: a plain function as a verifier, in worker processes that are killed when a response takes too long.

Pebble (5.2) was tried: its pool stops working when a worker is killed between two responses, as the system does when
memory runs out; it waits for ever for workers that never begin; and it judges a fifth to a third as many responses a
second where the function is quick.
"""

import importlib.metadata
import inspect
import itertools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from features.texts.tasks import Task
from features.verification.verdict import Verdict, Verifier
from features.verification.worker import OUT_OF_MEMORY, serve
from ranking.stores.files import sha256_of
from registry import VERIFIERS, ConfigError, Node
from registry.ranges import Few, Positive

P = TypeVar("P", bound="_Pool")

_CHUNK = 16
_AHEAD = 64
_BEGINS_WITHIN = 300.0


@dataclass(frozen=True)
class Workers:
    """The processes that plain verifier functions run in.

    Args:
        processes: How many; null for one for each processor.
        timeout: Seconds that one response may take; then its worker is killed and it gets no verdict.
        memory: GB of addresses a worker may use; null for no limit.
    """

    processes: Few | None = None
    timeout: Positive = 10.0
    memory: Positive | None = 4.0

    @property
    def number(self) -> int:
        """How many processes there are."""
        return self.processes or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(2))


DEFAULT_WORKERS = Workers()


def build_verifier(node: Node, workers: Workers = DEFAULT_WORKERS, path: str = "features.verifier") -> Verifier:
    """The verifier of a name and its options: a class as it is, a plain function in worker processes.

    Args:
        node: Name and options.
        workers: For plain functions.
        path: Where the node stands in the yaml.

    Raises:
        ConfigError: If the name or an option is not known, or the verifier's own dependency is missing.
    """
    options = VERIFIERS.check(node, path)
    if inspect.isclass(VERIFIERS.get(options["name"], path)):
        return VERIFIERS.build(node, path=path)
    given = {name: value for name, value in options.items() if name != "name"}
    return RuleVerifier(options, partial(VERIFIERS.get(options["name"], path), **given), workers)


class RuleVerifier:
    """Judges each response by a function of the response and its task.

    The function is `(response, task, /, **options) -> float | Verdict`. What it raises becomes the reason of a
    verdict without a label, as do a timeout and a crash.

    Args:
        options: Its name and all its options.
        rule: The function with its options attached; importable by name, for the workers are new processes.
        workers: The processes to run it in.
    """

    def __init__(self, options: Mapping[str, Any], rule: partial[Any], workers: Workers) -> None:
        self.options, self.rule, self.workers = dict(options), rule, workers
        self._pool: _Pool | None = None

    def settings(self) -> dict[str, Any]:
        """Its options, the time it has, the versions of what it leans on, and the code of a function of one's own."""
        module = inspect.getmodule(self.rule.func)
        packages = {name: importlib.metadata.version(name) for name in getattr(module, "PACKAGES", ())}
        settings = {**self.options, "timeout": self.workers.timeout, "packages": packages}
        if module is not None and not module.__name__.startswith("features."):
            settings["code"] = sha256_of(Path(inspect.getfile(module)))
        return settings

    def verify(self, responses: Iterable[tuple[Task, str]]) -> Iterator[Verdict]:
        """A verdict for each response, in their order; as many are read ahead as keep the workers busy.

        Args:
            responses: Each with its task; those of one task best come one after the other.

        Raises:
            ConfigError: If the workers cannot start.
        """
        pool, self._pool = self._pool or _Pool(self.rule, self.workers, self.options["name"]), None
        with ExitStack() as stack:
            stack.enter_context(pool)
            yield from pool.verdicts(_chunks(responses))
            # Workers that have nothing left to say may be wanted again; they end when this verifier does.
            stack.pop_all()
            self._pool = pool


@dataclass
class _Chunk:
    """Some responses to one task, and the verdicts that are there already."""

    task: Task
    responses: list[str]
    verdicts: list[Verdict]

    @property
    def left(self) -> list[str]:
        return self.responses[len(self.verdicts) :]


@dataclass
class _Worker:
    """One process; `deadline` is when it will have taken too long to begin, or for the response it is at."""

    process: BaseProcess
    connection: Connection
    chunk: _Chunk | None = None
    deadline: float = float("inf")
    ready: bool = False


class _Pool:
    """Workers, and the chunks they are at.

    A worker gets a chunk when it waits for one, so a send never waits for a worker that hangs.
    """

    def __init__(self, rule: partial[Any], workers: Workers, name: str) -> None:
        self.rule, self.settings, self.name = rule, workers, name
        self.context = get_context("forkserver")
        self.loaded_first = getattr(inspect.getmodule(rule.func), "LOADED_FIRST", ())
        self.workers: list[_Worker] = []

    def verdicts(self, chunks: Iterator[_Chunk]) -> Iterator[Verdict]:
        """The verdicts of all chunks, in order."""
        pending: deque[_Chunk] = deque()
        waiting: deque[_Chunk] = deque()
        while True:
            for worker in self.workers:
                if worker.ready and worker.chunk is None:
                    if not waiting and len(pending) < _AHEAD * len(self.workers):
                        waiting.extend(itertools.islice(chunks, 1))
                        pending.extend(waiting)
                    if waiting:
                        self._give(worker, waiting.popleft())
            while pending and not pending[0].left:
                yield from pending.popleft().verdicts
            if not pending and all(worker.ready for worker in self.workers):
                following = next(chunks, None)
                if following is None:
                    return
                pending.append(following)
                waiting.append(following)
                continue
            self._wait(waiting)

    def __enter__(self: P) -> P:
        # What the server of the workers has imported, each new worker has from the start.
        modules = ["features.verification.worker", self.rule.func.__module__, *self.loaded_first]
        self.context.set_forkserver_preload(modules)
        # One that waits has nothing to say, unless it is dead: then there is the end of the connection.
        alive = [worker for worker in self.workers if not worker.connection.poll()]
        self.workers = alive + [self._start() for _ in range(self.settings.number - len(alive))]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()

    def _start(self) -> _Worker:
        connection, theirs = self.context.Pipe()
        arguments = (theirs, self.rule, self.settings.timeout, self.settings.memory, self.loaded_first)
        process = self.context.Process(target=serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, connection, deadline=time.monotonic() + _BEGINS_WITHIN)

    def _give(self, worker: _Worker, chunk: _Chunk) -> None:
        worker.chunk, worker.deadline = chunk, time.monotonic() + self.settings.timeout
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead, as the next look at the connection tells
            worker.connection.send((chunk.task, chunk.left))

    def _wait(self, waiting: deque[_Chunk]) -> None:
        """Take what the workers have to say, for as long as until the first of them has taken too long."""
        deadline = min(worker.deadline for worker in self.workers)
        left = None if deadline == float("inf") else max(deadline - time.monotonic(), 0)
        heard = wait([worker.connection for worker in self.workers], left)
        for place, worker in enumerate(self.workers):
            if worker.connection in heard:
                reason = self._receive(worker)
            else:
                reason = "timed out" if time.monotonic() >= worker.deadline else ""
            if reason:
                self.workers[place] = self._replace(worker, reason, waiting)

    def _receive(self, worker: _Worker) -> str:
        """Take all that a worker has sent; why it has to be replaced, if it has."""
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                if worker.chunk is None:
                    worker.ready, worker.deadline = True, float("inf")
                else:
                    worker.chunk.verdicts.append(Verdict(*message))
                    worker.deadline = time.monotonic() + self.settings.timeout
                    if not worker.chunk.left:
                        worker.chunk, worker.deadline = None, float("inf")
        except (EOFError, OSError):  # closed, also in the middle of a message
            worker.process.join()
            return "out of memory" if worker.process.exitcode == OUT_OF_MEMORY else "crashed"
        return ""

    def _replace(self, worker: _Worker, reason: str, waiting: deque[_Chunk]) -> _Worker:
        """A new worker; the response that the old one was at gets no label, and the rest of its chunk comes next."""
        worker.connection.close()
        worker.process.kill()
        worker.process.join()
        if not worker.ready:
            ended = f"end before they have begun (status {worker.process.exitcode})"
            late = f"do not begin within {_BEGINS_WITHIN:g} seconds"
            problem = f"the workers of {self.name} {late if reason == 'timed out' else ended}."
            cure = "see above for why; a script that verifies needs `if __name__ == '__main__':` around what it does"
            raise ConfigError("features.verifier", problem, cure=cure)
        if worker.chunk is not None:
            worker.chunk.verdicts.append(Verdict(None, reason))
            if worker.chunk.left:
                waiting.appendleft(worker.chunk)
        return self._start()


def _chunks(responses: Iterable[tuple[Task, str]]) -> Iterator[_Chunk]:
    """The responses in runs of the same task."""
    for _, run in itertools.groupby(responses, key=lambda each: each[0]):
        task = None
        while part := list(itertools.islice(run, _CHUNK)):
            task = task or replace(part[0][0], responses=())
            yield _Chunk(task, [response for _, response in part], [])
