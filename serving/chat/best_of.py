"""BestOf: samples N responses to a chat, and ranks them by the hidden states that sampling has computed."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from features.generators.transformers import TransformersGenerator
from features.responses.generation import Generated, chat_id
from features.responses.sampling_generator import SamplingGenerator
from features.texts.tasks import Response, Task
from language_models.chat_template import Message
from language_models.sampling.prompt import Prompt
from language_models.single_threads import in_single_threads
from rankers.base import Ranker
from rankers.checkpoint import load_ranker
from ranking.batch import Batch, FeatureBatch
from registry import GENERATORS, ConfigError, load_config
from serving.reranker import Score

B = TypeVar("B", bound="BestOf")

_KNOWN = ("log_probability", "num_tokens", "self_certainty")
_SAMPLING = ("num_responses", "temperature", "top_p", "top_k", "stop", "max_new_tokens", "batch_size")


@dataclass(frozen=True)
class ChatQuestion:
    """A chat to answer.

    Args:
        messages: The chat; the last message is the user's.
        num_candidates: How many responses to sample.
        temperature: Divisor of the logits; 0 always takes the likeliest token.
        top_p: Draw only from the likeliest tokens that together have this probability.
        max_tokens: Longest response in tokens, including the end token.
        stop: Texts that end a response; the response does not include them.
        seed: Seed of all draws: equal chats with equal seeds get equal responses.
    """

    messages: Sequence[Message]
    num_candidates: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: Sequence[str]
    seed: int


@dataclass(frozen=True)
class Candidate:
    """A response with its score.

    Args:
        number: Its number among those that were sampled, from 0.
        text: The response.
        score: Higher is better; comparable only within one chat.
        finish: `stop` if it ended, `length` if it was cut.
        num_tokens: How many tokens were sampled; None if it is unknown.
    """

    number: int
    text: str
    score: float
    finish: str | None
    num_tokens: int | None


class Answer(NamedTuple):
    """The candidates, best first, with the numbers of tokens read and written and the seconds of both parts."""

    candidates: list[Candidate]
    prompt_tokens: int
    new_tokens: int
    sampling_seconds: float
    ranking_seconds: float


class ChatRefused(ValueError):
    """A chat that the language model cannot answer, and why."""


class Begun(NamedTuple):
    """A question on its way: the model with the question's options, the task, and its prompt."""

    generator: TransformersGenerator
    task: Task
    prompt: Prompt
    num_candidates: int


class BestOf:
    """A language model, and the ranker of its hidden states.

    Args:
        ranker: A trained ranker of responses.
        generator: The model whose states the ranker reads, with the options of sampling that questions start from.

    Raises:
        ValueError: If the ranker does not read hidden states, or reads something that sampling does not know.
    """

    def __init__(self, ranker: Ranker[Any], generator: TransformersGenerator) -> None:
        if ranker.batch_type is not FeatureBatch or not generator.depths:
            raise ValueError(f"{ranker.name} does not rank responses by the hidden states of their model")
        if unknown := set(ranker.extra) - set(_KNOWN):
            problem = (
                f"this ranker also reads {', '.join(sorted(unknown))} of each response, which sampling does not know"
            )
            raise ValueError(f"{problem}: train one without it")
        ranker.configure_model()
        self.ranker, self.generator = ranker.eval(), generator

    @classmethod
    def from_pretrained(cls: type[B], path: str | Path) -> B:
        """Load a ranker and the language model of its responses, with the options of its run.

        Args:
            path: The folder of a run, a checkpoint, a folder written by `save_pretrained`, or `user/name` on the hub.

        Raises:
            ConfigError: If the path has no ranker, or its model cannot be found.
            ValueError: If the ranker does not rank responses that this process can sample.
        """
        ranker = load_ranker(path)
        generator = generator_of(ranker, Path(path))
        if generator is None:
            raise ValueError(
                f"{path}: the responses of this ranker's training were not sampled by the model that it reads"
            )
        return cls(ranker, generator)

    def question(self, messages: Sequence[Message], **options: Any) -> ChatQuestion:
        """A question with the options of the run, except for those that are given."""
        usual = self.generator
        fields = {"num_candidates": usual.num_responses, "temperature": usual.temperature, "top_p": usual.top_p}
        fields |= {"max_tokens": usual.max_new_tokens, "stop": usual.stop, "seed": usual.seed}
        return ChatQuestion(messages, **{**fields, **options})

    def ask(self, questions: Sequence[ChatQuestion]) -> list[Answer]:
        """Answer questions, whose responses are sampled together.

        Raises:
            ChatRefused: If the model cannot answer one of the chats.
        """
        batch, started = self.generator.growing_batch(), time.perf_counter()
        begun = [self.begin(question) for question in questions]
        grown = [batch.add(each.prompt, range(each.num_candidates)) for each in begun]
        while not all(each.has_ended for each in grown):
            batch.advance()
        seconds = time.perf_counter() - started
        return [
            self.rank(each.generator.generated(each.task, sampled), seconds)
            for each, sampled in zip(begun, grown, strict=True)
        ]

    def begin(self, question: ChatQuestion) -> Begun:
        """The prompt of a question, ready to be sampled from.

        Raises:
            ChatRefused: If the chat is too long, or the model's template refuses it.
        """
        generator = self.generator.twin(
            num_responses=question.num_candidates,
            temperature=question.temperature,
            top_p=question.top_p,
            max_new_tokens=question.max_tokens,
            stop=list(question.stop),
            seed=question.seed,
        )
        task = Task(chat_id(question.messages), question.messages[-1]["content"], question.messages)
        try:
            prompt = generator.prompt(task)
        except ConfigError as error:
            raise ChatRefused(f"the model's chat template refuses this chat: {error.problem}") from error
        if refusal := generator.refusal(len(prompt.tokens)):
            raise ChatRefused(f"{refusal}: {len(prompt.tokens):,} tokens, and the model reads {generator.context:,}")
        return Begun(generator, task, prompt, question.num_candidates)

    @torch.inference_mode()
    def rank(self, generated: Generated, sampling_seconds: float, score: Score | None = None) -> Answer:
        """The answer that responses with their states make.

        Args:
            generated: The responses.
            sampling_seconds: How long they took.
            score: What scores them; None for the ranker.
        """
        started = time.perf_counter()
        (scores,) = in_single_threads(score or self.ranker, [self._batch(generated)])
        found = [
            Candidate(number, each.text, value, each.finish, len(each.tokens or ()))
            for number, (each, value) in enumerate(zip(generated.responses, scores[0].float().tolist(), strict=True))
        ]
        found.sort(key=lambda each: -each.score)
        new_tokens = sum(each.num_tokens or 0 for each in found)
        ranking_seconds = time.perf_counter() - started
        return Answer(found, generated.prompt_tokens or 0, new_tokens, sampling_seconds, ranking_seconds)

    def _batch(self, generated: Generated) -> Batch:
        assert generated.query_states is not None and generated.response_states is not None
        known = {name: _column(generated.responses, name) for name in self.ranker.extra}
        # The depths one after the other, as in a batch of `grouped_features`.
        query, candidates = generated.query_states.flatten(), generated.response_states.flatten(1)
        weight = next(self.ranker.parameters(), None)
        return FeatureBatch.of_group(query, candidates, **known).to("cpu" if weight is None else weight.device)


def generator_of(ranker: Ranker[Any], path: Path) -> TransformersGenerator | None:
    """The model whose states a ranker reads, with the options by which its run sampled; None if it sampled nothing.

    Args:
        ranker: A trained ranker.
        path: Where it is: a run's `config.yaml` says how responses were sampled. Without it, the defaults are used.

    Raises:
        ConfigError: If the run's config has a mistake.
    """
    if ranker.encoder is None or "depths" not in ranker.encoder:
        return None
    folder = path if path.is_dir() else path.parent
    run = load_config(folder / "config.yaml", []) if (folder / "config.yaml").is_file() else None
    node: Any = None if run is None or run.features is None else run.features
    options: dict[str, Any] = {}
    if isinstance(node, dict) and "generator" in node:
        made = GENERATORS.build(node["generator"], path="features.generator")
        if node.get("reader") is not None or getattr(made, "language_model", None) is None:
            return None
        if isinstance(made, SamplingGenerator):
            options = {name: getattr(made, name) for name in _SAMPLING if hasattr(made, name)}
    return TransformersGenerator(**{**ranker.encoder, **options})


def _column(responses: Sequence[Response], name: str) -> Tensor:
    if name == "num_tokens":
        return torch.tensor([-1 if each.tokens is None else len(each.tokens) for each in responses])
    values = [getattr(each, name) for each in responses]
    return torch.tensor([math.nan if value is None else value for value in values])
