"""Hall: the rankers of a server by name, each with the queue of those who wait for it."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from language_models.chat_template import Message
from language_models.language_model import LanguageModel
from serving.chat.best_of import Answer, BestOf, ChatQuestion
from serving.chat.endpoint import Endpoint
from serving.feedback.database import FeedbackDatabase
from serving.feedback.heads import Heads, can_be_personal
from serving.model_router import ModelChoice, ModelRouter, RoutedModel
from serving.reranker import Asked, Reranker, Score
from serving.searcher import FoundCandidate, Searcher
from serving.server.batcher import Batcher
from serving.server.chats.endpoint_chat import EndpointChat
from serving.server.chats.sampling import SamplingQueue
from serving.server.errors import RequestError
from serving.server.metrics import Metrics
from serving.server.settings import Settings

logger = logging.getLogger("serving")

T = TypeVar("T")

LONG_QUERY = "the query was longer than the ranker reads, and was cut"
NOT_A_NUMBER = "the ranker gave a score that is not a number"


class RerankQuestion(NamedTuple):
    """A query with its documents, the number of tokens at which to cut these, and whether to refuse long texts.

    The user, if there is one, chooses the ranker that scores; `score` is that ranker, once it is known.
    """

    query: str | Sequence[Message]
    documents: Sequence[str]
    max_tokens: int | None = None
    refuse_long: bool = False
    user: str | None = None
    score: Score | None = None


class Reranked(NamedTuple):
    """The scores of documents in the order in which they were sent, the tokens read, and what was cut, in words.

    The version is that of the user's head; 0 for the ranker itself, None if there is no user.
    """

    scores: list[float]
    num_tokens: int
    warnings: list[str]
    version: int | None = None


class SearchQuestion(NamedTuple):
    """A query for a pool, and how many candidates to return."""

    query: str
    top_k: int


class Searched(NamedTuple):
    """The best candidates of a pool, best first, and what was cut, in words."""

    candidates: list[FoundCandidate]
    warnings: list[str]


class RouteQuestion(NamedTuple):
    """A query, and the models to choose from."""

    query: str | Sequence[Message]
    models: Sequence[RoutedModel]


@dataclass
class Hall:
    """The rankers of a server by name: what each can do, and the queue of those who wait for it.

    Args:
        settings: The limits of each queue.
    """

    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.rerankers: dict[str, Reranker] = {}
        self.searchers: dict[str, dict[str, Searcher]] = {}
        """The pools of each ranker by name; the first one is its own."""
        self.routers: dict[str, ModelRouter] = {}
        self.chats: dict[str, SamplingQueue | EndpointChat] = {}
        """What samples the responses that a ranker chooses from."""
        self.is_ready = False
        """Whether all rankers are loaded and the server is not shutting down."""
        self.started = int(time.time())
        self.database: FeedbackDatabase | None = None
        """Where feedback of users is kept, if it is."""
        self.heads: dict[str, Heads] = {}
        """The users' rankers over those rankers that users can teach."""
        self.told = asyncio.Event()
        """Set when a user has given feedback."""
        self._chooses: dict[str, Score] = {}
        self._locks: dict[str, AbstractContextManager[Any]] = {}
        self._rerank: dict[str, Batcher[RerankQuestion, Reranked]] = {}
        self._search: dict[tuple[str, str], Batcher[SearchQuestion, Searched]] = {}
        self._route: dict[str, Batcher[RouteQuestion, list[ModelChoice]]] = {}

    def add_reranker(self, name: str, reranker: Reranker) -> None:
        """Add a ranker of texts; one whose model also samples comes after `add_chat`, since both share the model."""
        self.rerankers[name] = reranker
        chat = self.chats.get(name)
        lock = chat.lock if isinstance(chat, SamplingQueue) else nullcontext()
        self._rerank[name] = self._batcher(name, partial(_reranked, reranker, lock))
        self._locks[name] = lock

    def add_chat(self, name: str, best_of: BestOf) -> None:
        """Add a ranker with the language model that samples its responses in this process."""
        self._chooses[name] = best_of.ranker
        self._add_chat(name, SamplingQueue(best_of, partial(self._chooser, name), self.settings))

    def add_endpoint_chat(self, name: str, endpoint: Endpoint) -> None:
        """Let a ranker of texts, which is here already, choose among the responses of an endpoint."""
        reads_chats = isinstance(self.rerankers[name].encoder, LanguageModel)
        self._add_chat(
            name, EndpointChat(endpoint, partial(self._scores, name), self.settings, reads_chats=reads_chats)
        )

    def add_searcher(self, name: str, pool: str, searcher: Searcher) -> None:
        """Add a ranker with a pool; the first pool of a ranker is the one that is searched by default."""
        self.searchers.setdefault(name, {})[pool] = searcher
        self._search[name, pool] = self._batcher(f"{name}/{pool}", partial(_searched, searcher))

    def add_router(self, name: str, router: ModelRouter) -> None:
        """Add a router."""
        self.routers[name] = router
        self._route[name] = self._batcher(name, partial(_routed, router))

    def keep_feedback(self, database: FeedbackDatabase) -> None:
        """Let users teach those rankers that can have heads."""
        self.database = database
        for name, reranker in self.rerankers.items():
            if can_be_personal(reranker.ranker):
                self.heads[name] = Heads(name, reranker.ranker, database)

    @property
    def kinds(self) -> dict[str, str]:
        """What each ranker does, by name: rerank, search or route; chat if it does nothing else."""
        kinds = dict.fromkeys(self.chats, "chat") | dict.fromkeys(self.rerankers, "rerank")
        return kinds | dict.fromkeys(self.searchers, "search") | dict.fromkeys(self.routers, "route")

    def does(self, name: str) -> list[str]:
        """All that a ranker does."""
        return [self.kinds[name]] + (["chat"] if name in self.chats and self.kinds[name] != "chat" else [])

    def check_ready(self) -> None:
        """Refuse requests while rankers load, and once the server shuts down.

        Raises:
            RequestError: If rankers are not loaded yet, or no longer used.
        """
        if not self.is_ready:
            raise RequestError(503, "the rankers are not loaded, or the server is shutting down", {"Retry-After": "2"})

    def named(self, kind: str, name: str | None) -> str:
        """The name of the ranker that a request means: by default the first of the kind.

        Raises:
            RequestError: If rankers are not loaded yet, or there is none of this name and kind.
        """
        self.check_ready()
        names = list(self.chats) if kind == "chat" else [each for each, its in self.kinds.items() if its == kind]
        if name is None and names:
            return names[0]
        if name in names:
            return name
        if not names:
            raise RequestError(404, f"this server has no ranker that can {kind}")
        raise RequestError(404, f"no ranker {(name or '')[:100]!r} that can {kind}; there are: {', '.join(names)}")

    def heads_of(self, name: str) -> Heads:
        """The users' rankers over a named ranker.

        Raises:
            RequestError: If users cannot teach it.
        """
        if name not in self.heads:
            which = f"there are: {', '.join(self.heads)}" if self.heads else "this server has none that can"
            raise RequestError(400, f"{name} does not learn from users' feedback, so it takes no user; {which}")
        return self.heads[name]

    def ranker_of(self, name: str, user: str | None) -> Score:
        """What scores for a user: the newest head over a named ranker, or that ranker itself without a user or head.

        With a user it waits for the database, so an event loop calls it by `from_database`.

        Raises:
            RequestError: If users cannot teach this ranker.
            SQLAlchemyError: If the database does not answer.
        """
        if user is not None:
            return self.heads_of(name).head(user).score
        return self._chooses[name] if name in self._chooses else self.rerankers[name].ranker

    async def rerank(self, name: str, question: RerankQuestion) -> Reranked:
        """The scores of documents by a named ranker, or by the head of the question's user.

        Raises:
            RequestError: If there is no room or no time for it, users cannot teach this ranker, or the database of
                their heads does not answer.
        """
        if question.user is None:
            return await self._rerank[name].ask(question, len(question.documents))
        head = await self.from_database(self.heads_of(name).head, question.user)
        found = await self._rerank[name].ask(question._replace(score=head.score), len(question.documents))
        return found._replace(version=head.version)

    async def from_database(self, work: Callable[..., T], *arguments: Any) -> T:
        """What a function of the database returns, called in a thread.

        Raises:
            RequestError: If the database does not answer, or not within the time of a request.
        """
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await asyncio.to_thread(work, *arguments)
        except (SQLAlchemyError, TimeoutError) as error:
            logger.exception("the database failed", extra={"fields": {"event": "database_failure"}})
            raise RequestError(503, "the database of feedback does not answer", {"Retry-After": "2"}) from error

    async def borrow(self, name: str, work: Callable[[], T]) -> T:
        """What a function returns that has a named ranker and its encoder for itself while it runs."""

        def alone() -> T:
            with self._locks[name]:
                return work()

        return await self._rerank[name].borrow(alone)

    async def search(self, name: str, pool: str | None, question: SearchQuestion) -> tuple[str, Searched]:
        """The best candidates of a pool, with the pool's name."""
        pools = self.searchers[name]
        pool = pool or next(iter(pools))
        if pool not in pools:
            raise RequestError(404, f"{name} has no pool {pool[:100]!r}; there are: {', '.join(pools)}")
        return pool, await self._search[name, pool].ask(question)

    async def route(self, name: str, question: RouteQuestion) -> list[ModelChoice]:
        """The models for a query, best first."""
        return await self._route[name].ask(question)

    async def chat(self, name: str, question: ChatQuestion, user: str | None = None) -> Answer:
        """The candidates of a chat, best first.

        Raises:
            RequestError: If there is no room or no time for it, or the endpoint fails.
            ChatRefused: If the language model cannot answer this chat.
        """
        answer = await self.chats[name].ask(question, user)
        self.metrics.answer(name, answer)
        if not all(math.isfinite(each.score) for each in answer.candidates):
            raise RequestError(500, NOT_A_NUMBER)
        return answer

    async def close(self) -> None:
        """Take no more requests, and answer those that wait."""
        self.is_ready = False
        if self.database is not None:  # first, because what waits for it holds the threads of others
            self.database.close()
        for chat in self.chats.values():
            await chat.close()
        for batcher in (*self._rerank.values(), *self._search.values(), *self._route.values()):
            await batcher.close()

    def _add_chat(self, name: str, chat: SamplingQueue | EndpointChat) -> None:
        self.chats[name] = chat
        self.metrics.watch_queue(f"{name}/chat", lambda: chat.size)

    async def _chooser(self, name: str, user: str | None) -> Score:
        """What scores the responses to a user's chat; clients may name users to rankers that learn from none."""
        if user is None or name not in self.heads:  # needs no database
            return self.ranker_of(name, None)
        return await self.from_database(self.ranker_of, name, user)

    async def _scores(
        self, name: str, query: str | Sequence[Message], documents: Sequence[str], user: str | None
    ) -> list[float]:
        question = RerankQuestion(query, documents, user=user if name in self.heads else None)
        return (await self.rerank(name, question)).scores

    def _batcher(self, name: str, work: Callable[[Sequence[Any]], Sequence[Any]]) -> Batcher[Any, Any]:
        settings = self.settings
        batcher: Batcher[Any, Any] = Batcher(
            work,
            largest=settings.batch_texts,
            seconds=settings.batch_seconds,
            room=settings.max_waiting,
            timeout=settings.timeout,
            watch=partial(self.metrics.batch, name),
        )
        self.metrics.watch_queue(name, lambda: batcher.size)
        return batcher


def _reranked(
    reranker: Reranker, lock: AbstractContextManager[Any], questions: Sequence[RerankQuestion]
) -> list[Reranked | Exception]:
    prepared = [_prepared(reranker, question) for question in questions]
    kept = [
        (each[0], question.score) for each, question in zip(prepared, questions, strict=True) if isinstance(each, tuple)
    ]
    by = [score or reranker.ranker for _, score in kept] if any(score for _, score in kept) else None
    with lock:
        scores = iter(reranker.score([asked for asked, _ in kept], by))
    return [
        each if isinstance(each, Exception) else _with_scores(next(scores).tolist(), *each[1:]) for each in prepared
    ]


def _prepared(reranker: Reranker, question: RerankQuestion) -> tuple[Asked, int, list[str]] | RequestError:
    """What is to be ranked, the tokens to read and what is cut, in words; or why it is refused."""
    documents, warnings = question.documents, []
    if question.max_tokens is not None:
        documents = reranker.cut(documents, question.max_tokens)
        if num_cut := sum(before != after for before, after in zip(question.documents, documents, strict=True)):
            warnings.append(f"{num_cut} documents were cut to {question.max_tokens} tokens")
    asked = Asked(question.query, documents)
    reading = reranker.reading(asked)
    if reading.num_cut and question.refuse_long:
        long = f"{reading.num_cut} texts are too long for the ranker"
        return RequestError(413, f"{long}: shorten them, or send truncate: true")
    if reading.num_cut:
        warnings.append(f"{reading.num_cut} texts were longer than the ranker reads, and were cut")
    return asked, reading.num_tokens, warnings


def _with_scores(scores: list[float], num_tokens: int, warnings: list[str]) -> Reranked | RequestError:
    if not all(map(math.isfinite, scores)):
        return RequestError(500, NOT_A_NUMBER)
    return Reranked(scores, num_tokens, warnings)


def _searched(searcher: Searcher, asked: Sequence[SearchQuestion]) -> list[Searched]:
    found = searcher.rank([each.query for each in asked], max(each.top_k for each in asked))
    if not all(math.isfinite(candidate.score) for candidates in found for candidate in candidates):
        raise RequestError(500, NOT_A_NUMBER)
    return [
        Searched(candidates[: each.top_k], [LONG_QUERY] if searcher.is_cut(each.query) else [])
        for candidates, each in zip(found, asked, strict=True)
    ]


def _routed(router: ModelRouter, asked: Sequence[RouteQuestion]) -> list[list[ModelChoice]]:
    found = router.route([each.query for each in asked], [each.models for each in asked])
    if not all(math.isfinite(choice.score) for choices in found for choice in choices):
        raise RequestError(500, NOT_A_NUMBER)
    return found
