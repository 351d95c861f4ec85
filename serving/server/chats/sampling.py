"""SamplingQueue: samples responses to the chats of several requests in one thread and one batch, and ranks them."""

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from language_models.chat_template import Message
from language_models.sampling.sampler import GrowingBatch, Sampled
from serving.chat.best_of import Answer, Begun, BestOf, ChatQuestion
from serving.reranker import Score
from serving.server.errors import RequestError, overloaded
from serving.server.settings import Settings


class FairLock:
    """A lock that the thread which gave it up does not get again before one that waits.

    Other locks go to whoever asks first, which is nearly always the thread that takes one for each step.
    """

    def __init__(self) -> None:
        self._turn, self._held = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._turn:
            self._held.acquire()

    def __exit__(self, *_: object) -> None:
        self._held.release()


@dataclass(eq=False)
class _Job:
    question: ChatQuestion
    score: Score
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Answer]"
    has_left: bool = False
    started: float = 0.0
    begun: Begun | None = None
    sampled: Sampled | None = None


class SamplingQueue:
    """A thread in which the responses of all requests grow together, one token a step.

    A request joins the batch as soon as enough rows are free, gets its answer when its own responses have ended, and
    leaves the batch at once when nobody waits for it any more.

    Args:
        best_of: The language model and the ranker.
        ranker_of: Gives what scores for a user, or for everyone.
        settings: The limits.
    """

    def __init__(
        self, best_of: BestOf, ranker_of: Callable[[str | None], Awaitable[Score]], settings: Settings
    ) -> None:
        self._best_of, self._ranker_of, self._settings = best_of, ranker_of, settings
        self._arrived: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._busy_since, self._finished = 0.0, 0
        self.lock = FairLock()
        """Held during each step; whoever else reads with the same model has to hold it."""
        self.size = 0
        """How many candidates wait or grow."""

    @property
    def model(self) -> str:
        """The name of the language model."""
        return self._best_of.generator.model

    def question(self, messages: Sequence[Message], **options: Any) -> ChatQuestion:
        """A question with the options of the ranker's run, except for those that are given."""
        return self._best_of.question(messages, **options)

    async def ask(self, question: ChatQuestion, user: str | None) -> Answer:
        """The answer to a chat.

        Args:
            question: The chat.
            user: Whose ranker chooses.

        Raises:
            RequestError: 429 if too much is waiting, 503 if the server is shutting down, 504 if it took too long.
            ChatRefused: If the model cannot answer this chat.
        """
        score = await self._ranker_of(user)
        if self._closing:
            raise RequestError(503, "the server is shutting down")
        if self.size and self.size + question.num_candidates > self._settings.max_waiting_candidates:
            seconds = time.perf_counter() - self._busy_since
            raise overloaded(self.size * seconds / self._finished if self._finished else 1.0)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sampling", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        job = _Job(question, score, loop, loop.create_future())
        self.size += question.num_candidates
        self._arrived.put(job)
        try:
            async with asyncio.timeout(self._settings.chat_timeout):
                return await job.answer
        except TimeoutError:
            raise RequestError(504, f"no answer within {self._settings.chat_timeout:g} s") from None
        finally:
            job.has_left = True
            self.size -= question.num_candidates

    async def close(self) -> None:
        """Answer what is waiting, take no more, and end the thread."""
        self._closing = True
        self._arrived.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        growing: list[_Job] = []
        batch, is_open = None, True
        while is_open or growing:
            for job in self._take(wait=not growing):
                if job is None:
                    is_open = False
                elif (joined := self._begin(job, batch)) is not None:
                    self._busy_since = self._busy_since if growing else time.perf_counter()
                    batch = joined
                    growing.append(job)
            if batch is None:
                continue
            for job in [each for each in growing if each.has_left]:
                batch.drop(_of(job))
                growing.remove(job)
            try:
                with self.lock:
                    batch.advance()
            except Exception as error:
                for job in growing:
                    _tell(job, error)
                growing = []
            for job in [each for each in growing if _of(each).has_ended]:
                growing.remove(job)
                self._finish(job)
            if not growing:  # so that an idle server keeps no keys and values
                batch, self._finished = None, 0

    def _take(self, *, wait: bool) -> list[_Job | None]:
        """What has arrived; waits for the first if there is nothing else to do."""
        found = [self._arrived.get()] if wait else []
        with suppress(queue.Empty):
            while True:
                found.append(self._arrived.get_nowait())
        return found

    def _begin(self, job: _Job, batch: GrowingBatch | None) -> GrowingBatch | None:
        """Let a request join the batch, or a new one; the batch, or None if the request did not join."""
        if job.has_left:
            return None
        try:
            job.begun, job.started = self._best_of.begin(job.question), time.perf_counter()
            batch = batch or self._best_of.generator.growing_batch()
            job.sampled = batch.add(job.begun.prompt, range(job.begun.num_candidates))
            return batch
        except Exception as error:
            _tell(job, error)
            return None

    def _finish(self, job: _Job) -> None:
        assert job.begun is not None
        seconds, sampled = time.perf_counter() - job.started, _of(job)
        sampled.logits = None
        try:
            answer = self._best_of.rank(job.begun.generator.generated(job.begun.task, sampled), seconds, job.score)
        except Exception as error:
            _tell(job, error)
            return
        self._finished += job.question.num_candidates
        _tell(job, answer)


def _of(job: _Job) -> Sampled:
    assert job.sampled is not None
    return job.sampled


def _tell(job: _Job, answer: Answer | Exception) -> None:
    def tell() -> None:
        if job.answer.done():
            return
        if isinstance(answer, Exception):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)

    # A loop that has ended has nobody who waits.
    with suppress(RuntimeError):
        job.loop.call_soon_threadsafe(tell)
