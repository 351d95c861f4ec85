"""openai_compatible: gets responses, as texts only, from a server with OpenAI's chat completions API."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Event
from typing import Any

from console.progress import Report
from features.responses.generation import Generated, Generator, check_asking
from features.texts.tasks import Response, Task
from language_models.asking.chat_endpoint import ChatEndpoint, Choice, RequestFailed, key_of
from language_models.asking.replies import Chat, Reply
from language_models.sampling.seeds import request_seed
from registry import GENERATORS, ConfigError
from registry.ranges import Count, Few, Positive, Probability, SamplingTemperature, Seed, Text

# Options that responses do not depend on.
_OF_A_RUN = ("url", "api_key_variable", "num_responses", "parallel", "requests_per_minute", "timeout", "attempts")


@GENERATORS.register("openai_compatible")
@dataclass(frozen=True)
class OpenAICompatibleGenerator(Generator):
    """Gets responses from a model on a server; hidden states, if needed, must be read by another model.

    Each request has its own seed, made from `seed`, the task's id and the number of the request for the task.
    Most servers only try to give the same responses to the same seed, without a guarantee.

    Args:
        model: Name of the model on the server.
        url: Base address of the server, such as `http://localhost:8000/v1`.
        api_key_variable: The environment variable with the API key; null sends no key.
        num_responses: Number of responses to each task.
        responses_a_request: Number of responses in one request, sent as `n`; 1 for servers that return only one.
        temperature: Divisor of the logits; 0 always takes the likeliest token.
        top_p: Draw only from the likeliest tokens that together have this probability.
        stop: Texts that end a response; the response does not include them.
        max_new_tokens: Longest response in tokens.
        seed: Seed of all requests.
        options: Further options of each request, such as `{top_k: 50}` if the server supports it.
        parallel: Number of requests at the same time.
        requests_per_minute: Maximum number of requests to start in a minute; null for no limit.
        timeout: Seconds to wait for an answer.
        attempts: Maximum number of attempts for a request if the server is busy, fails or does not answer.
    """

    model: Text
    url: Text = "http://localhost:8000/v1"
    api_key_variable: Text | None = None
    num_responses: Count = 10
    responses_a_request: Few = 8
    temperature: SamplingTemperature = 1.0
    top_p: Probability = 1.0
    stop: list[Text] = field(default_factory=list)
    max_new_tokens: Count = 1024
    seed: Seed = 0
    options: dict[str, Any] = field(default_factory=dict)
    parallel: Few = 8
    requests_per_minute: Positive | None = None
    timeout: Positive = 300.0
    attempts: Few = 6

    def settings(self) -> dict[str, Any]:
        """All settings that a response depends on; without the address, because servers move."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _OF_A_RUN}
        return {"name": "openai_compatible", **fields}

    def generate(self, tasks: Sequence[Task], numbers: range, report: Report | None = None) -> Iterator[Generated]:
        """Yield the responses with these numbers to each task.

        If the server refuses a request, for example because a task is too long, that task gets no more responses.

        Args:
            tasks: The tasks; their requests are sent in parallel.
            numbers: The numbers of the responses, counted from 0.
            report: Called after each request with its number of responses; not of tokens, which servers count
                differently.

        Raises:
            ConfigError: If the server refuses the key, the model or every task, or stops answering.
        """
        first, last = numbers.start // self.responses_a_request, (numbers.stop - 1) // self.responses_a_request
        executor, stop = ThreadPoolExecutor(self.parallel), Event()
        try:
            asked = [
                [executor.submit(self._ask, task, block, stop) for block in range(first, last + 1)] for task in tasks
            ]
            found = [
                self._found(task, requests, first * self.responses_a_request, numbers, report)
                for task, requests in zip(tasks, asked, strict=True)
            ]
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)
        if found and numbers and not any(each.responses for each in found):
            problem = f"refuses every problem of {len(found)} ({found[0].refusal})."
            raise ConfigError(self.url, problem, cure="check model, max_new_tokens and options")
        yield from found

    def asking(self, *, temperature: float, max_new_tokens: int) -> "OpenAICompatibleGenerator":
        """A copy that gives one response to each chat."""
        check_asking(self, temperature, max_new_tokens)
        options = {"num_responses": 1, "responses_a_request": 1}
        return replace(self, temperature=temperature, max_new_tokens=max_new_tokens, **options)

    def replies(self, chats: Sequence[Chat]) -> Iterator[Reply]:
        """Yield one reply to each chat, in order; requests are sent in parallel.

        Raises:
            ConfigError: If the server refuses the key or the model, or stops answering.
        """
        executor, stop = ThreadPoolExecutor(self.parallel), Event()
        try:
            asked = [executor.submit(self._ask, Task("chat", "", chat), 0, stop) for chat in chats]
            for request in asked:
                try:
                    choice = request.result()[0]
                    yield Reply(choice.text, choice.prompt_tokens, choice.new_tokens)
                except RequestFailed as failed:
                    if failed.gone:
                        raise self._gone(failed) from failed
                    yield Reply("", refusal=failed.reason)
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)

    def _gone(self, failed: RequestFailed) -> ConfigError:
        cure = "start the server again, then run the same command to continue"
        return ConfigError(self.url, f"does not answer ({failed.reason}).", cure=cure)

    @cached_property
    def _endpoint(self) -> ChatEndpoint:
        return ChatEndpoint(
            self.url,
            key_of(self.api_key_variable),
            self.timeout,
            self.attempts,
            requests_per_minute=self.requests_per_minute,
        )

    def _ask(self, task: Task, block: int, stop: Event) -> list[Choice]:
        choices = self._endpoint.choices(
            self.model,
            [dict(message) for message in task.messages],
            stop,
            n=self.responses_a_request,
            seed=request_seed(self.seed, task.query_id, block),
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_new_tokens,
            **({"stop": self.stop} if self.stop else {}),
            **self.options,
        )
        if len(choices) < self.responses_a_request:
            problem_ = f"gives {len(choices)} responses to a request for {self.responses_a_request}."
            raise ConfigError(self.url, problem_, cure="features.generator.responses_a_request=1")
        return choices[: self.responses_a_request]

    def _found(
        self,
        task: Task,
        requests: Sequence[Future[list[Choice]]],
        number: int,
        numbers: range,
        report: Report | None,
    ) -> Generated:
        """The requested responses, up to the first request that failed."""
        responses: list[Response] = []
        for request in requests:
            try:
                choices = request.result()
            except RequestFailed as failed:
                if failed.gone:
                    raise self._gone(failed) from failed
                return Generated(task, responses, refusal=failed.reason)
            wanted = [(at, choice) for at, choice in enumerate(choices, start=number) if at in numbers]
            responses += [Response(str(at), choice.text, finish=choice.finish) for at, choice in wanted]
            number += len(choices)
            if report:
                report(len(wanted), 0)
        return Generated(task, responses)
