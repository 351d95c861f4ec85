"""Batcher: does together, in a thread, what several requests ask for at the same time."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.server.errors import RequestError, overloaded

logger = logging.getLogger("serving")

Q = TypeVar("Q")
A = TypeVar("A")
B = TypeVar("B")


@dataclass(eq=False)
class _Waiting(Generic[Q, A]):
    question: Q
    size: int
    deadline: float
    answer: "asyncio.Future[A]"
    is_queued: bool = True


class Batcher(Generic[Q, A]):
    """A queue of questions and one thread that answers as many of them at once as fit.

    While the thread works, questions wait, and the next batch takes them all: so batches grow with the load, and an
    idle server answers after `seconds`. A question that fails does so alone: a batch with an error is repeated
    question by question.

    Args:
        work: Answers several questions, in their order; an exception as an answer is raised for its question alone.
        largest: The most of a batch, in the unit of the questions' sizes.
        seconds: How long the first question of a batch waits for others.
        room: The most that may wait, in the same unit.
        timeout: Seconds until a question is given up.
        watch: Called after each batch with its number of questions, its size and its seconds.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Q]], Sequence[A | Exception]],
        *,
        largest: int,
        seconds: float,
        room: int,
        timeout: float,
        watch: Callable[[int, int, float], None] = lambda questions, size, seconds: None,
    ) -> None:
        self._work, self._largest, self._seconds, self._room, self._timeout = work, largest, seconds, room, timeout
        self._watch = watch
        self._queue: deque[_Waiting[Q, A]] = deque()
        self._arrived, self._thread = asyncio.Event(), ThreadPoolExecutor(1, "batcher")
        self._task: asyncio.Task[None] | None = None
        self._closing, self._rate = False, 0.0
        self.size = 0
        """How much waits, in the unit of the questions' sizes."""

    async def ask(self, question: Q, size: int = 1) -> A:
        """The answer to a question.

        Raises:
            RequestError: 429 if too much is waiting, 500 if the batch failed in another place than `work`, 503 if the
                server is shutting down, 504 if it took too long.
            Exception: What `work` raised for this question.
        """
        if self._closing:
            raise RequestError(503, "the server is shutting down")
        # A question that is larger than the room is let in when nothing else waits, since it would never fit.
        if self._queue and self.size + size > self._room:
            raise overloaded(self.size / self._rate if self._rate else 1.0)
        loop = asyncio.get_running_loop()
        self._task = self._task or loop.create_task(self._run())
        waiting = _Waiting(question, size, loop.time() + self._timeout, loop.create_future())
        self._queue.append(waiting)
        self.size += size
        self._arrived.set()
        try:
            async with asyncio.timeout_at(waiting.deadline):
                return await waiting.answer
        except TimeoutError:
            raise RequestError(504, f"no answer within {self._timeout:g} s") from None
        finally:
            if waiting.is_queued:  # nobody waits for it any more, so others may have its room
                self._queue.remove(waiting)
                self.size -= waiting.size

    async def borrow(self, work: Callable[[], B]) -> B:
        """What a function returns that the thread calls between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Answer what is waiting, take no more, and end the thread."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                # What waited while the thread worked has waited long enough; what came to an idle one waits a little.
                if not self._closing:
                    await asyncio.sleep(self._seconds)
            batch = self._next()
            try:
                if batch:
                    await self._answer(batch)
            except Exception:  # the only task, which later questions need too
                logger.exception("a batch failed", extra={"fields": {"event": "batch_failure"}})
                for each in batch:
                    if not each.answer.done():
                        each.answer.set_exception(RequestError(500, "the server failed; its log has the reason"))

    def _next(self) -> list[_Waiting[Q, A]]:
        """The next batch."""
        batch: list[_Waiting[Q, A]] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].size <= self._largest):
            waiting = self._queue.popleft()
            waiting.is_queued = False
            self.size -= waiting.size
            if not waiting.answer.done():
                batch.append(waiting)
                size += waiting.size
        return batch

    async def _answer(self, batch: list[_Waiting[Q, A]]) -> None:
        size, started = sum(each.size for each in batch), time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._thread, self._work, [each.question for each in batch])
        except Exception as error:
            if len(batch) > 1:
                for each in batch:
                    if not each.answer.done():
                        await self._answer([each])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        seconds = time.perf_counter() - started
        self._rate = size / seconds if not self._rate else 0.8 * self._rate + 0.2 * size / seconds
        self._watch(len(batch), size, seconds)
        for each, answer in zip(batch, answers, strict=True):
            if each.answer.done():
                continue
            if isinstance(answer, Exception):
                each.answer.set_exception(answer)
            else:
                each.answer.set_result(answer)
