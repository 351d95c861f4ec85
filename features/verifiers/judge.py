"""judge: labels from 0 to 5 by another model with a rubric, for instructions without a single right answer."""

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from features.texts.prompts import RUBRIC, rubric
from features.texts.tasks import Task
from features.verification.answers import without_thoughts
from features.verification.verdict import Verdict
from language_models.asking.chat_endpoint import ChatEndpoint, RequestFailed, key_of, shortened
from language_models.asking.reply_cache import ReplyCache
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
    """Asks a model on an OpenAI-compatible server for a score by the rubric of Language Ranker's appendix G.

    Replies are cached by the hash of their requests, so a run that was stopped continues, and equal responses are
    judged once. If a reply has no score, the request is repeated at a higher temperature; after the last attempt the
    response gets no label. If the server stops answering, or refuses all requests from the first on, the run stops
    instead of continuing without labels.

    Args:
        model: Name of the model on the server.
        url: Base address of the server, such as `http://localhost:8000/v1`.
        api_key_variable: The environment variable with the API key; null sends no key.
        rubric: The prompt, with `{query}` and `{response}` in it, which asks for a reply with `score: <0 to 5>`; null
            for the paper's rubric.
        temperature: Temperature of the first reply; null for the server's default.
        max_tokens: Longest reply in tokens.
        replies: Maximum number of replies to request until one has a score.
        parallel: Number of requests at the same time.
        requests_per_minute: Maximum number of requests to start in a minute; null for no limit.
        timeout: Seconds to wait for a reply.
        attempts: Maximum number of attempts for a request if the server is busy, fails or does not answer.
        cache: The file of cached replies.
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
            raise ValueError("the rubric must contain {query}, and {response} after it")
        self.model, self.url, self.temperature, self.max_tokens = model, url, temperature, max_tokens
        self.replies, self.parallel, self.cache = replies, parallel, Path(cache)
        self.endpoint = ChatEndpoint(
            url, key_of(api_key_variable), timeout, attempts, requests_per_minute=requests_per_minute
        )

    def settings(self) -> dict[str, Any]:
        """The model, the rubric, and the options of replies."""
        names = ("model", "url", "rubric", "temperature", "max_tokens", "replies")
        return {"name": "judge", **{name: getattr(self, name) for name in names}}

    def verify(self, responses: Iterable[tuple[Task, str]]) -> Iterator[Verdict]:
        """Yield a verdict for each response in order.

        Raises:
            ConfigError: If the server refuses the key or model, refuses the first ten requests, or does not answer ten
                requests in a row.
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
        self, responses: Iterable[tuple[Task, str]], begin: Callable[[tuple[str, str]], Future[Verdict]]
    ) -> Iterator[Verdict]:
        """Yield verdicts in the order of the responses; start a few requests ahead, and equal ones only once."""
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
                    cure = "check the server, then run the same command to continue"
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
                # A reply that was cut could have continued, so it is stored with a mark at its end.
                choice = self.endpoint.choices(self.model, messages, stop, **options)[0]
                reply = cache.put(request, f"{choice.text}{_CUT}" if choice.finish == "length" else choice.text)
            # A cached reply shows that the server has answered.
            self.endpoint.answered = True
            if (score := score_of(reply)) is not None:
                return Verdict(score)
        return Verdict(None, f"no score: {shortened(reply)}")


def score_of(reply: str) -> float | None:
    """The score that a reply states; None unless it clearly states exactly one score from 0 to 5.

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
