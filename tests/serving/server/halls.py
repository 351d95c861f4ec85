"""Halls: what a server serves, and a client that asks the application in this process."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import torch
from jaxtyping import Float
from torch import Tensor

from serving.feedback.database import FeedbackDatabase
from serving.reranker import Asked, Reading, Reranker
from serving.server.app import create_app
from serving.server.hall import Hall
from serving.server.learner import Learner
from serving.server.settings import Settings

T = TypeVar("T")

DOCUMENTS = ["open the file", "sort a list", "return the value of a key", "write to a file", "sort a list"]


class Scored(Reranker):
    """A reranker whose scores are given."""

    def __init__(self, scores: Callable[[Asked], list[float]]) -> None:
        self._given, self.ranker = scores, None  # type: ignore[assignment]

    def score(self, asked: Any, by: Any = None) -> list[Float[Tensor, " N"]]:
        return [torch.tensor(self._given(each), dtype=torch.float32) for each in asked]

    def reading(self, asked: Asked) -> Any:
        return Reading(7, 0)


def hall_of(reranker: Reranker | None = None, **settings: Any) -> Hall:
    hall = Hall(Settings(**settings))
    if reranker is not None:
        hall.add_reranker("tiny", reranker)
    hall.is_ready = True
    return hall


def taught(reranker: Reranker, where: str | Path, **settings: Any) -> Hall:
    """A hall whose users can teach its ranker."""
    hall = hall_of(reranker, **settings)
    hall.keep_feedback(FeedbackDatabase(where))
    return hall


async def train(hall: Hall) -> None:
    """Train all heads for which there is enough feedback now."""
    learner = Learner(hall, lambda: ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)))
    learner.prepare()
    await learner.learn_all()
    await learner.close()


def ask(hall: Hall, talk: Callable[[httpx.AsyncClient], Awaitable[T]], **options: Any) -> T:
    """Let a function talk to the application of a hall; the server ends in order after it."""

    async def run() -> T:
        transport = httpx.ASGITransport(create_app(hall))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", **options) as client:
            try:
                return await talk(client)
            finally:
                await hall.close()

    return asyncio.run(run())


def post(hall: Hall, path: str, body: Any, **options: Any) -> httpx.Response:
    return ask(hall, lambda client: client.post(path, json=body), **options)
