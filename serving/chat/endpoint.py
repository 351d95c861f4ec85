"""Endpoint: responses to a chat from a server that speaks OpenAI's chat completions, as texts only."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from language_models.asking.chat_endpoint import ChatEndpoint, Choice, RequestFailed
from language_models.sampling.seeds import request_seed
from serving.chat.best_of import ChatQuestion

_PARALLEL = 32
_REFUSED = (400, 422)


class Responses(NamedTuple):
    """The responses of an endpoint, and how many tokens it says that it has read and written."""

    choices: list[Choice]
    prompt_tokens: int
    new_tokens: int


class Endpoint:
    """A model on a server.

    Some servers give fewer responses than a request asks for, and some refuse a request for several: these are asked
    for one response at a time.

    Args:
        url: The server's base address, such as `http://localhost:8000/v1`.
        model: Name of the model on the server.
        api_key: Sent as a bearer token; None sends none.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, url: str, model: str, api_key: str | None = None, timeout: float = 300.0) -> None:
        self.model = model
        self._server = ChatEndpoint(url, api_key, timeout, attempts=2)
        self._threads = ThreadPoolExecutor(_PARALLEL, "endpoint")
        self._gives_one: set[bool] = set()
        """Whether responses are greedy, where the server has refused several to a chat, but not one."""

    async def sample(self, question: ChatQuestion) -> Responses:
        """The candidates of a chat, in as few requests as the server allows.

        Raises:
            RequestFailed: If the server refuses a request or does not answer.
            ConfigError: If the server refuses the key, or has no such model.
        """
        stop = threading.Event()
        try:
            answers = [await self._first(question, stop)]
            missing = range(len(answers[0]), question.num_candidates)
            seeds = [request_seed(question.seed, "", number) for number in missing]
            answers += await asyncio.gather(*(self._ask(question, 1, seed, stop) for seed in seeds))
        finally:
            stop.set()
        read = sum(answer[0].prompt_tokens or 0 for answer in answers)
        written = sum(answer[0].new_tokens or 0 for answer in answers)
        choices = [choice for answer in answers for choice in answer]
        return Responses(choices[: question.num_candidates], read, written)

    async def _first(self, question: ChatQuestion, stop: threading.Event) -> list[Choice]:
        """As many candidates as the server gives to one request."""
        # Some servers refuse several responses only if they are greedy, since all would be the same.
        seed, is_greedy = question.seed % 2**31, question.temperature == 0
        wanted = 1 if is_greedy in self._gives_one else question.num_candidates
        try:
            return await self._ask(question, wanted, seed, stop)
        except RequestFailed as error:
            if wanted == 1 or error.status not in _REFUSED:
                raise
        one = await self._ask(question, 1, seed, stop)
        self._gives_one.add(is_greedy)
        return one

    async def _ask(self, question: ChatQuestion, n: int, seed: int, stop: threading.Event) -> list[Choice]:
        options: dict[str, Any] = {
            "n": n,
            "seed": seed,
            "temperature": question.temperature,
            "top_p": question.top_p,
            "max_tokens": question.max_tokens,
            **({"stop": list(question.stop)} if question.stop else {}),
        }
        messages: Sequence[Any] = [dict(each) for each in question.messages]
        ask = partial(self._server.choices, self.model, messages, stop, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
