"""judge: labels from 0 to 5 that another model gives by a rubric, for instructions that have no one right answer."""

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from features.chat_endpoint import ChatEndpoint, RequestFailed, key_of
from features.problems import Problem
from features.prompts import RUBRIC, rubric
from features.reply_cache import ReplyCache
from features.verification import Verdict
from registry import VERIFIERS, ConfigError

_SCORE = re.compile(r"score\W{0,10}?(-?\d+(?:\.\d+)?)(?:\s*/\s*5)?", re.IGNORECASE)
_HIGHEST = 5
_IN_VAIN = 10
_AHEAD = 2
_WARMER = 0.5


@VERIFIERS.register("judge")
class Judge:
    """Asks a model behind an OpenAI-compatible address for a score by the rubric of Language Ranker's appendix G.

    Replies are cached by the hash of what was asked, so a run that was stopped goes on, and equal responses are judged
    once. A reply without a score is asked for again, at a higher temperature; after the last time the response gets no
    label. Where the server does not answer at all any more, the run stops rather than go on without labels.

    Args:
        model: Its name on the server.
        url: The server's base address.
        api_key_variable: The environment variable with the key; null sends none.
        rubric: What is asked, with `{query}` and `{response}` in it, for a reply with `score: <0 to 5>`; null for the
            paper's.
        temperature: Of the first reply; null leaves it to the server.
        max_tokens: Of a reply.
        replies: How often a reply is asked for in all until one has a score.
        parallel: Requests at a time.
        requests_per_minute: Begun at most; null for no limit.
        timeout: Seconds to wait for a reply.
        attempts: How often a request is made in all where the server is busy, fails or does not answer.
        cache: The file of replies.
    """

    def __init__(
        self,
        model: str,
        url: str = "http://localhost:8000/v1",
        api_key_variable: str | None = None,
        rubric: str | None = None,
        temperature: float | None = 0.0,
        max_tokens: int = 256,
        replies: int = 3,
        parallel: int = 8,
        requests_per_minute: float | None = None,
        timeout: float = 120.0,
        attempts: int = 6,
        cache: str = "data/judge.sqlite",
    ) -> None:
        if min(replies, parallel, max_tokens) < 1:
            raise ValueError("replies, parallel and max_tokens must be at least 1")
        self.rubric = RUBRIC if rubric is None else rubric
        if "{query}" not in self.rubric or "{response}" not in self.rubric.partition("{query}")[2]:
            raise ValueError("the rubric must have {query} in it, and {response} after it")
        self.model, self.url, self.temperature, self.max_tokens = model, url, temperature, max_tokens
        self.replies, self.parallel, self.cache = replies, parallel, Path(cache)
        self.endpoint = ChatEndpoint(
            url, key_of(api_key_variable), timeout, attempts, requests_per_minute=requests_per_minute
        )

    def settings(self) -> dict[str, Any]:
        """The judge, what it is asked, and how often."""
        names = ("model", "url", "rubric", "temperature", "max_tokens", "replies")
        return {"name": "judge", **{name: getattr(self, name) for name in names}}

    def verify(self, responses: Iterable[tuple[Problem, str]]) -> Iterator[Verdict]:
        """A verdict for each response, in their order.

        Raises:
            ConfigError: If the server refuses the key or model, or leaves ten requests in a row unanswered.
        """
        stop = threading.Event()
        with closing(ReplyCache(self.cache)) as cache, ThreadPoolExecutor(self.parallel) as executor:

            def begin(asked: tuple[str, str]) -> Future[Verdict]:
                return executor.submit(self._judge, cache, stop, *asked)

            try:
                yield from self._in_order(responses, begin)
            finally:
                stop.set()
                executor.shutdown(cancel_futures=True)

    def _in_order(
        self, responses: Iterable[tuple[Problem, str]], begin: Callable[[tuple[str, str]], Future[Verdict]]
    ) -> Iterator[Verdict]:
        """The verdicts in the order of the responses, of which a few are begun ahead; equal ones are begun once."""
        waiting: deque[tuple[tuple[str, str], Future[Verdict]]] = deque()
        begun: dict[tuple[str, str], Future[Verdict]] = {}
        in_vain, left = 0, iter(responses)
        while True:
            while len(waiting) < _AHEAD * self.parallel and (following := next(left, None)) is not None:
                asked = (following[0].query, following[1])
                begun[asked] = begun.get(asked) or begin(asked)
                waiting.append((asked, begun[asked]))
            if not waiting:
                return
            asked, future = waiting.popleft()
            try:
                verdict, in_vain = future.result(), 0
            except RequestFailed as failed:
                in_vain = in_vain + 1 if failed.gone else 0
                if in_vain == _IN_VAIN:
                    cure = "see to it; the same command goes on with what is missing"
                    raise ConfigError(self.url, f"does not answer any more ({failed.reason}).", cure=cure) from failed
                verdict = Verdict(None, f"judge: {failed.reason}")
            if all(other is not future for _, other in waiting):
                del begun[asked]
            yield verdict

    def _judge(self, cache: ReplyCache, stop: threading.Event, query: str, response: str) -> Verdict:
        messages = rubric(query, response, self.rubric)
        for number in range(self.replies):
            options: dict[str, Any] = {"max_tokens": self.max_tokens}
            if self.temperature is not None:
                options["temperature"] = self.temperature + (_WARMER if number else 0)
            if number:
                options["seed"] = number
            request = {"url": self.url, "model": self.model, "messages": messages, **options}
            reply = cache.get(request)
            if reply is None:
                reply = cache.put(request, self.endpoint.choices(self.model, messages, stop, **options)[0].text)
            if (score := score_of(reply)) is not None:
                return Verdict(score)
        return Verdict(None, "no score")


def score_of(reply: str) -> float | None:
    """The score that a reply gives; None unless it gives exactly one between 0 and 5.

    >>> score_of("score: 4. Relevant and complete.")
    4.0
    """
    scores = {float(score) for score in _SCORE.findall(reply)}
    score = scores.pop() if len(scores) == 1 else None
    return score if score is not None and 0 <= score <= _HIGHEST else None
