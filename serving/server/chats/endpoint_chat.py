"""EndpointChat: responses to a chat from an endpoint, ranked as the documents of a request are."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.error import HTTPError

from language_models.asking.chat_endpoint import RequestFailed
from language_models.chat_template import Message
from registry import ConfigError
from serving.chat.best_of import Answer, Candidate, ChatQuestion
from serving.chat.endpoint import Endpoint
from serving.server.errors import RequestError, overloaded
from serving.server.settings import Settings

logger = logging.getLogger("serving")

Rank = Callable[[str | Sequence[Message], Sequence[str], str | None], Awaitable[list[float]]]
"""Gives the scores of documents for a query and a user."""

_INSIDE = re.compile(r"Traceback|File \"|file:/|(?<![\w/.])/[\w.-]+/[\w.-]|\b[A-Za-z]:\\")
"""What no client is told of an endpoint's inside: tracebacks, and paths of files."""
_USUAL = {"num_candidates": 10, "temperature": 1.0, "top_p": 1.0, "max_tokens": 1024, "stop": (), "seed": 0}


class EndpointChat:
    """A ranker of texts that chooses among the responses of an endpoint.

    Args:
        endpoint: The endpoint.
        rank: Gives the scores.
        settings: The limits.
        reads_chats: Whether the ranker reads whole chats; other rankers read what the user said last.
    """

    def __init__(self, endpoint: Endpoint, rank: Rank, settings: Settings, *, reads_chats: bool) -> None:
        self._endpoint, self._rank, self._settings, self._reads_chats = endpoint, rank, settings, reads_chats
        self._closing = False
        self.size = 0
        """How many candidates are awaited."""

    @property
    def model(self) -> str:
        """The name of the language model."""
        return self._endpoint.model

    def question(self, messages: Sequence[Message], **options: Any) -> ChatQuestion:
        """A question with the usual options, except for those that are given."""
        return ChatQuestion(messages, **{**_USUAL, **options})

    async def ask(self, question: ChatQuestion, user: str | None) -> Answer:
        """The answer to a chat.

        Args:
            question: The chat.
            user: Whose ranker chooses.

        Raises:
            RequestError: 400 if the endpoint refuses the chat or the ranker cannot read it, 429 if too much is waiting,
                502 if the endpoint fails, 503 if the server is shutting down, 504 if it took too long.
        """
        if self._closing:
            raise RequestError(503, "the server is shutting down")
        if self.size and self.size + question.num_candidates > self._settings.max_waiting_candidates:
            raise overloaded(1.0)
        self.size += question.num_candidates
        try:
            async with asyncio.timeout(self._settings.chat_timeout):
                return await self._answer(question, user)
        except TimeoutError:
            raise RequestError(504, f"no answer within {self._settings.chat_timeout:g} s") from None
        finally:
            self.size -= question.num_candidates

    async def close(self) -> None:
        """Take no more requests."""
        self._closing = True
        self._endpoint.close()

    async def _answer(self, question: ChatQuestion, user: str | None) -> Answer:
        started = time.perf_counter()
        try:
            found = await self._endpoint.sample(question)
        except ConfigError as error:
            cause = error.__cause__
            kind = f"HTTP {cause.code}" if isinstance(cause, HTTPError) else type(error).__name__
            raise self._failed("refuses this server", kind, error.problem) from error
        except RequestFailed as error:
            if error.gone:
                raise self._failed("does not answer", error.kind, error.reason) from error
            if error.status is None:
                what = "answers in another form than that of chat completions"
                raise self._failed(what, error.kind, error.reason) from error
            reason = error.kind if _INSIDE.search(error.told) else error.reason
            raise RequestError(400, f"the endpoint of the language model refuses this chat: {reason}") from error
        sampled = time.perf_counter()
        query = question.messages if self._reads_chats else question.messages[-1]["content"]
        # A ranker cannot read an empty response, which is the worst.
        given = [number for number, each in enumerate(found.choices) if each.text.strip()]
        try:
            scores = await self._rank(query, [found.choices[number].text for number in given], user) if given else []
        except ValueError as error:  # a chat or a response that the ranker cannot read
            raise RequestError(400, str(error)[:300]) from error
        scored = dict(zip(given, scores, strict=True))
        worst = min(scores, default=0.0)
        candidates = [
            Candidate(number, each.text, scored.get(number, worst), each.finish, None)
            for number, each in enumerate(found.choices)
        ]
        candidates.sort(key=lambda each: (each.number not in scored, -each.score))
        ranked = time.perf_counter()
        return Answer(candidates, found.prompt_tokens, found.new_tokens, sampled - started, ranked - sampled)

    def _failed(self, what: str, kind: str, reason: str) -> RequestError:
        """The error for the client, who is not told the reason.

        The log has it if it may have texts, since what an endpoint writes may repeat what it was sent.
        """
        logged = reason if self._settings.log_texts else kind
        fields = {"event": "endpoint", "problem": what, "reason": logged}
        logger.warning("the endpoint failed", extra={"fields": fields})
        return RequestError(502, f"the endpoint of the language model {what}")
