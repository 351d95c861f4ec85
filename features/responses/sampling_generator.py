"""SamplingGenerator: the base of generators whose model draws tokens in this process."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, TypeVar

from annotated_types import Interval

from features.responses.generation import Generator, check_asking
from language_models.asking.replies import Chat
from language_models.language_model import LanguageModel
from language_models.sampling.prompt import StopTexts
from registry.ranges import Count, Probability, SamplingTemperature, Seed, Text

S = TypeVar("S", bound="SamplingGenerator")


@dataclass(frozen=True)
class SamplingGenerator(LanguageModel, Generator):
    """A generator whose model also reads hidden states.

    Args:
        num_responses: Number of responses to each task.
        temperature: Divisor of the logits; 0 always takes the likeliest token.
        top_p: Draw only from the likeliest tokens that together have this probability, after temperature and top_k.
        top_k: Draw only from this many likeliest tokens; 0 for all.
        stop: Texts that end a response; the response does not include them.
        max_new_tokens: Longest response in tokens, including the end token.
        seed: Seed of all random numbers; those of a response also depend on its task's id and its number.
    """

    num_responses: Count = 10
    temperature: SamplingTemperature = 1.0
    top_p: Probability = 1.0
    top_k: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    stop: list[Text] = field(default_factory=list)
    max_new_tokens: Count = 1024
    seed: Seed = 0

    @property
    def language_model(self) -> LanguageModel:
        """The model itself."""
        return self

    def asking(self: S, *, temperature: float, max_new_tokens: int) -> S:
        """A copy that gives one response to each chat, and no states."""
        check_asking(self, temperature, max_new_tokens)
        writer = replace(self, temperature=temperature, max_new_tokens=max_new_tokens, num_responses=1, depths=[])
        vars(writer)["yaml_path"] = "ranker.generator"  # where rankers name it, for messages
        return writer

    def check(self, *, download: bool) -> None:
        """Refuse a model that cannot be found, or a template that it does not have."""
        # The template of a GGUF file is known only once its weights are read.
        if (download or self.is_here) and self.folder and not self.gguf:
            self.chat.prompt([{"role": "user", "content": "query"}])

    def likelihoods(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[list[float]] | None:
        """The log-probability of each of these answers to each chat, in nats; equal for chats that are too long."""
        from language_models.asking.likelihoods import answer_likelihoods  # here, since it loads transformers

        if not self.writes:
            return None
        endings = [self.chat.tokens(answer) for answer in answers]
        prompts = [self.chat.prompt(chat) for chat in chats]
        longest = max(map(len, endings))
        found = [[-math.inf] * len(answers) for _ in chats]
        kept = [place for place, prompt in enumerate(prompts) if self.room(len(prompt) + longest - 1)]
        scored = answer_likelihoods(self.loaded, [prompts[place] for place in kept], endings, self.batch_tokens)
        for place, each in zip(kept, scored, strict=True):
            found[place] = each
        return found

    def room(self, prompt_tokens: int) -> int:
        """The maximum number of tokens of a response to a prompt of this length; 0 if the prompt is too long."""
        if self.refusal(prompt_tokens):
            return 0
        return self.max_new_tokens if self.context is None else min(self.max_new_tokens, self.context - prompt_tokens)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of a response, without the end token and from the first stop text on."""
        kept = tokens[:-1] if tokens and tokens[-1] in self._ends else tokens
        return self._stops.cut(self.chat.text(kept))

    @cached_property
    def _ends(self) -> frozenset[int]:
        return self.chat.ends_with(self.stop)

    @cached_property
    def _stops(self) -> StopTexts:
        return StopTexts(self.stop, self.chat.text)
