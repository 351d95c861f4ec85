"""judge: labels from 0 to 5 that another model gives by a rubric, for instructions that have no one right answer."""

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from features.texts.prompts import RUBRIC, rubric
from features.texts.tasks import Problem
from features.verification.thoughts import without_thoughts
from features.verification.verdict import Verdict
from language_models.chat_endpoint import ChatEndpoint, RequestFailed, key_of, shortened
from language_models.reply_cache import ReplyCache
from registry import VERIFIERS, ConfigError
from registry.ranges import Count, Few, FilePath, Positive, SamplingTemperature, Text

_SCORE = re.compile(r"score\W{0,10}\d", re.IGNORECASE)
_STATED = re.compile(
    r"""score(?P<key>")?["'*_`]*\s*[:=][\s"'*_`]*(?P<slot><)?(?P<score>\d+(?:\.\d+)?)(?(slot)>)["'*_`]*
    (?:\s*/\s*5|\s+out\s+of\s+5)?(?:\s+points?)?["'*_`]*
    (?:
        \.?["'*_`]*[^\S\n]*(?:\n|$)  # the end of the line
        |\.["'*_`]*\s(?!.*?\b(?!(?P=score)\b)\d)  # another sentence, but no list and no sum: no other number follows
        |(?(key)\s*(?:,\s*"|\})|(?!))  # JSON
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_SAID = re.compile(r"score (?:is|should be) (\d+(?:\.\d+)?)", re.IGNORECASE)
_CUT = "…"
_HIGHEST = 5
_IN_VAIN = 10
_AHEAD = 2
_WARMER = 0.5


@VERIFIERS.register("judge")
class Judge:
    """Asks a model behind an OpenAI-compatible address for a score by the rubric of Language Ranker's appendix G.

    Replies are cached by the hash of what was asked, so a run that was stopped goes on, and equal responses are judged
    once. A reply without a score is asked for again, at a higher temperature; after the last time the response gets no
    label. Where the server does not answer at all any more, or refuses all from the first request on, the run stops
    rather than go on without labels.

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
        model: Text,
        url: Text = "http://localhost:8000/v1",
        api_key_variable: Text | None = None,
        rubric: Text | None = None,
        temperature: SamplingTemperature | None = 0.0,
        max_tokens: Count = 256,
        replies: Few = 3,
        parallel: Few = 8,
        requests_per_minute: Positive | None = None,
        timeout: Positive = 120.0,
        attempts: Few = 6,
        cache: FilePath = "data/judge.sqlite",
    ) -> None:
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
            ConfigError: If the server refuses the key or model, refuses the first ten requests, or leaves ten in a row
                unanswered.
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
        waiting: deque[tuple[tuple[str, str], Future[Verdict], bool]] = deque()
        begun: dict[tuple[str, str], Future[Verdict]] = {}
        in_vain, left = 0, iter(responses)
        while True:
            while len(waiting) < _AHEAD * self.parallel and (following := next(left, None)) is not None:
                asked = (following[0].query, following[1])
                new = asked not in begun
                if new:
                    begun[asked] = begin(asked)
                waiting.append((asked, begun[asked], new))
            if not waiting:
                return
            asked, future, new = waiting.popleft()
            try:
                verdict, in_vain = future.result(), 0
            except RequestFailed as failed:
                in_vain = in_vain + new if failed.gone or not self.endpoint.answered else 0
                if in_vain == _IN_VAIN:
                    what = "does not answer any more" if failed.gone else "refuses every request"
                    cure = "see to it; the same command goes on with what is missing"
                    raise ConfigError(self.url, f"{what} ({failed.reason}).", cure=cure) from failed
                verdict = Verdict(None, failed.reason)
            if all(other is not future for _, other, _ in waiting):
                del begun[asked]
            yield verdict

    def _judge(self, cache: ReplyCache, stop: threading.Event, query: str, response: str) -> Verdict:
        messages, reply = rubric(query, response, self.rubric), ""
        for number in range(self.replies):
            options: dict[str, Any] = {"max_tokens": self.max_tokens}
            if self.temperature is not None:
                options["temperature"] = self.temperature + (_WARMER if number else 0)
            if number:
                options["seed"] = number
            request = {"url": self.url, "model": self.model, "messages": messages, **options}
            reply = cache.get(request)
            if reply is None:
                # What it was cut at may have been longer, so it is kept with a mark at that place.
                text, finish = self.endpoint.choices(self.model, messages, stop, **options)[0]
                reply = cache.put(request, f"{text}{_CUT}" if finish == "length" else text)
            # A reply on disk was an answer of the server too.
            self.endpoint.answered = True
            if (score := score_of(reply)) is not None:
                return Verdict(score)
        return Verdict(None, f"no score: {shortened(reply)}")


def score_of(reply: str) -> float | None:
    """The score that a reply states; None unless it states exactly one, between 0 and 5 and beyond doubt.

    >>> score_of("score: 4. Relevant and complete.")
    4.0
    >>> score_of("score: 4 or 5")
    """
    answer = without_thoughts(reply)
    stated = [_STATED.match(answer, found.start()) for found in _SCORE.finditer(answer)]
    scores = {float(each["score"]) if each else None for each in stated}
    said = {float(score) for score in _SAID.findall(answer)}
    score = scores.pop() if len(scores) == 1 else None
    return score if score is not None and score <= _HIGHEST and said <= {score} else None
