"""openai_compatible: responses from a server that speaks OpenAI's chat completions; texts only."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event
from typing import Any

from console.progress import Report
from features.responses.generation import Generated, Generator
from features.texts.tasks import Problem, Response
from language_models.chat_endpoint import ChatEndpoint, Choice, RequestFailed, key_of
from language_models.sampling.seeds import request_seed
from registry import GENERATORS, ConfigError
from registry.ranges import Count, Few, Positive, Probability, SamplingTemperature, Seed, Text

# What a response does not depend on.
_OF_A_RUN = ("url", "api_key_variable", "num_responses", "parallel", "requests_per_minute", "timeout", "attempts")


@GENERATORS.register("openai_compatible")
@dataclass(frozen=True)
class OpenAICompatibleGenerator(Generator):
    """Asks a model behind an address; its hidden states, if any are wanted, have to be read by another model.

    Each request has a seed of its own, made of `seed`, the problem's id and the place of the request among those to the
    problem. Most servers promise no more than an effort to give the same responses to the same seed.

    Args:
        model: Its name on the server.
        url: The server's base address.
        api_key_variable: The environment variable with the key; null sends none.
        num_responses: To each problem.
        responses_a_request: How many one request asks for, as `n`; 1 for servers that give but one.
        temperature: What logits are divided by; 0 takes the likeliest token.
        top_p: Only the likeliest tokens that together have this probability.
        stop: Texts that end a response; they are not part of it.
        max_new_tokens: Longest response.
        seed: Of all requests.
        options: Sent with each request besides, such as `{top_k: 50}` where the server knows it.
        parallel: Requests at a time.
        requests_per_minute: Begun at most; null for no limit.
        timeout: Seconds to wait for an answer.
        attempts: How often a request is made in all where the server is busy, fails or does not answer.
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
        """All that one response depends on; the address is not among it, for servers move."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _OF_A_RUN}
        return {"name": "openai_compatible", **fields}

    def generate(
        self, problems: Sequence[Problem], numbers: range, report: Report | None = None
    ) -> Iterator[Generated]:
        """The responses of these numbers to each problem.

        A problem that the server refuses, such as for its length, has no responses from there on.

        Args:
            problems: To be asked together.
            numbers: Which responses, counted from 0.
            report: Told of each request; of its responses alone, for servers count tokens each in their own way.

        Raises:
            ConfigError: If the server refuses the key, model or every problem, or answers no more.
        """
        first, last = numbers.start // self.responses_a_request, (numbers.stop - 1) // self.responses_a_request
        executor, stop = ThreadPoolExecutor(self.parallel), Event()
        try:
            asked = [
                [executor.submit(self._ask, problem, block, stop) for block in range(first, last + 1)]
                for problem in problems
            ]
            found = [
                self._found(problem, requests, first * self.responses_a_request, numbers, report)
                for problem, requests in zip(problems, asked, strict=True)
            ]
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)
        if found and numbers and not any(each.responses for each in found):
            problem = f"refuses every problem of {len(found)} ({found[0].refusal})."
            raise ConfigError(self.url, problem, cure="check model, max_new_tokens and options")
        yield from found

    @cached_property
    def _endpoint(self) -> ChatEndpoint:
        return ChatEndpoint(
            self.url,
            key_of(self.api_key_variable),
            self.timeout,
            self.attempts,
            requests_per_minute=self.requests_per_minute,
        )

    def _ask(self, problem: Problem, block: int, stop: Event) -> list[Choice]:
        choices = self._endpoint.choices(
            self.model,
            [dict(message) for message in problem.messages],
            stop,
            n=self.responses_a_request,
            seed=request_seed(self.seed, problem.query_id, block),
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
        problem: Problem,
        requests: Sequence[Future[list[Choice]]],
        number: int,
        numbers: range,
        report: Report | None,
    ) -> Generated:
        """What was asked for of the answers up to the first one that is missing."""
        responses: list[Response] = []
        for request in requests:
            try:
                choices = request.result()
            except RequestFailed as failed:
                if failed.gone:
                    cure = "start it again; the same command goes on with what is missing"
                    raise ConfigError(self.url, f"does not answer ({failed.reason}).", cure=cure) from failed
                return Generated(problem, responses, refusal=failed.reason)
            wanted = [(at, choice) for at, choice in enumerate(choices, start=number) if at in numbers]
            responses += [Response(str(at), choice.text, finish=choice.finish) for at, choice in wanted]
            number += len(choices)
            if report:
                report(len(wanted), 0)
        return Generated(problem, responses)
