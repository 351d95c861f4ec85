"""Learner: trains users' heads beside a server, one after the other, in a process of its own."""

import asyncio
import hashlib
import json
import logging
import multiprocessing
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float
from sqlalchemy.exc import SQLAlchemyError

from language_models.language_model import LanguageModel
from rankers.checkpoint import save_pretrained
from registry import ConfigError
from serving.feedback.database import Lease
from serving.feedback.learning import Labelled, Learnt, learn, prepare_process
from serving.feedback.said import Said
from serving.reranker import Asked, Reranker
from serving.server.hall import Hall

logger = logging.getLogger("serving")

NEWEST = 500
"""How much of a user's feedback is used: the newest."""

MOST_NUMBERS = 2**26
"""How many numbers the vectors of one training may have, 256 MiB: of longer feedback the newest that fits is used."""

_LEASE, _RENEWAL, _AFTER_FAILURE = 60.0, 15.0, 300.0
"""Seconds: how long others wait for a server that has died, how often a living one says so, and until a new attempt."""


def own_process() -> Executor:
    """One process that trains; it is started by the first training, and ends with this one."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), prepare_process)


class Learner:
    """Looks for users with new feedback, trains their heads, and replaces these where the new ones are better.

    Any number of servers may share a database: each head is trained by one of them at a time.

    Args:
        hall: The rankers, with their heads and the database.
        executor: Makes what trains.
    """

    def __init__(self, hall: Hall, executor: Callable[[], Executor] = own_process) -> None:
        self._hall, self._make, self._executor = hall, executor, None
        self._task: asyncio.Task[None] | None = None
        self._folder: TemporaryDirectory[str] | None = None
        self._read = _Read(MOST_NUMBERS)

    def start(self) -> None:
        """Begin, in the running event loop.

        Raises:
            ConfigError: If the bases cannot be written down.
        """
        self.prepare()
        self._task = asyncio.create_task(self._run())

    def prepare(self) -> None:
        """Write down the bases, for the process that trains.

        Raises:
            ConfigError: If there is no temporary folder, or it cannot hold them.
        """
        try:
            self._folder = TemporaryDirectory(prefix="rankers-")
        except OSError as error:
            problem = f"cannot be made, and training users' heads needs one: {error.strerror or error}."
            raise ConfigError("temporary folder", problem, cure="make room, or set TMPDIR to another folder") from error
        for name in self._hall.heads:
            save_pretrained(self._hall.rerankers[name].ranker, self._base(name))

    async def close(self) -> None:
        """End; a training that has begun is left to others, or to the next start."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        if self._folder is not None:
            self._folder.cleanup()

    async def learn_all(self) -> None:
        """Train everything for which there is enough new feedback now."""
        hall = self._hall
        assert hall.database is not None
        bases = {name: heads.base_sha256 for name, heads in hall.heads.items()}
        least = hall.settings.learn_after
        while (lease := await asyncio.to_thread(hall.database.lease, bases, least, _LEASE)) is not None:
            try:
                async with self._renewed(lease):
                    await self._learn(lease)
            except SQLAlchemyError:
                raise
            except Exception:
                logger.exception("training failed", extra={"fields": {"event": "training_failure"}})
                await asyncio.to_thread(hall.database.give_up, lease, _AFTER_FAILURE)

    async def _run(self) -> None:
        while True:
            self._hall.told.clear()
            try:
                await self.learn_all()
            except SQLAlchemyError:  # the database may answer again later
                logger.exception("the database failed", extra={"fields": {"event": "database_failure"}})
            except Exception:  # such as no room for a thread; the only task, which later feedback needs too
                logger.exception("the learner failed", extra={"fields": {"event": "learner_failure"}})
            # Other servers take feedback too, and may die while they train.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hall.told.wait(), self._hall.settings.learn_every)

    async def _learn(self, lease: Lease) -> None:
        hall, name = self._hall, lease.of.ranker
        database = hall.database
        assert database is not None
        given: list[Labelled] = []
        room = MOST_NUMBERS
        for number, content in reversed(await asyncio.to_thread(database.feedback, name, lease.of.user, NEWEST)):
            # One at a time, since requests wait while the ranker's encoder reads these texts.
            try:
                each = await self._labelled(name, number, Said.of(content), room)
            except ValueError:  # the model reads no responses when feedback is given; the error may have texts
                fields = {"event": "feedback_too_long", "ranker": name, "feedback": number}
                logger.warning("feedback is too long for the model", extra={"fields": fields})
                continue
            if each is None:
                break
            room -= each.query.size + each.candidates.size
            given.insert(0, each)
        kept = None if lease.version is None else await asyncio.to_thread(database.weights, lease.version)
        present = None if kept is None else kept[1]
        learnt = await self._trained(partial(learn, str(self._base(name)), given, present))
        finish = partial(database.finish, lease, learnt.report, learnt.weights, to_base=learnt.to_base)
        version = await asyncio.to_thread(finish)
        hall.metrics.training(name, learnt.report["outcome"])
        fields = {"event": "training", "ranker": name, "version": version, **learnt.report}
        logger.info("training", extra={"fields": fields})

    async def _labelled(self, name: str, number: int, said: Said, room: int) -> Labelled | None:
        """A piece of feedback with its vectors; None if these have more numbers than there is room for.

        A language model reads it once; a text encoder remembers texts itself.
        """
        reranker = self._hall.rerankers[name]
        key = (name, hashlib.sha256(json.dumps([said.query, said.candidates]).encode()).digest())
        found = self._read.get(key)
        if found is None:
            found = await self._hall.borrow(name, partial(_vectors, reranker, said))
        if _size(found) > room:
            return None
        if isinstance(reranker.encoder, LanguageModel):
            self._read.add(key, found)
        return Labelled(number, *found, said.labels)

    async def _trained(self, work: Callable[[], Learnt]) -> Learnt:
        self._executor = self._executor or self._make()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except BrokenProcessPool:
            self._executor = None
            raise

    @asynccontextmanager
    async def _renewed(self, lease: Lease) -> AsyncIterator[None]:
        """Keep a lease for as long as the training takes."""
        database = self._hall.database
        assert database is not None

        async def renew() -> None:
            while True:
                await asyncio.sleep(_RENEWAL)
                with suppress(SQLAlchemyError):  # it may answer again before the lease ends
                    await asyncio.to_thread(database.renew, lease, _LEASE)

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            task.cancel()

    def _base(self, name: str) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / str(list(self._hall.heads).index(name))


_Vectors = tuple[Float[np.ndarray, " D"], Float[np.ndarray, "K D"]]
"""Those of a query, and of its candidates."""


class _Read:
    """The vectors of groups of texts that were read last; together they have no more than so many numbers.

    Groups are kept whole, since what a model reads together changes its states by rounding.
    """

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._groups: OrderedDict[tuple[str, bytes], _Vectors] = OrderedDict()

    def get(self, key: tuple[str, bytes]) -> _Vectors | None:
        if key in self._groups:
            self._groups.move_to_end(key)
        return self._groups.get(key)

    def add(self, key: tuple[str, bytes], vectors: _Vectors) -> None:
        if key not in self._groups:
            self._groups[key] = vectors
            self._size += _size(vectors)
        while self._size > self._most:
            _, old = self._groups.popitem(last=False)
            self._size -= _size(old)


def _size(vectors: _Vectors) -> int:
    return sum(each.size for each in vectors)


def _vectors(reranker: Reranker, said: Said) -> _Vectors:
    (batch,) = reranker.batches([Asked(said.query, said.candidates)])
    query, candidates = batch.unique_queries[0], batch.unique_candidates  # type: ignore[union-attr]
    return query.float().cpu().numpy(), candidates.float().cpu().numpy()
