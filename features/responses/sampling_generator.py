"""SamplingGenerator: the base of generators whose model draws tokens in this process."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from annotated_types import Interval

from features.responses.generation import Generator
from language_models.language_model import LanguageModel
from language_models.sampling.prompt import StopTexts
from registry.ranges import Count, Probability, SamplingTemperature, Seed, Text


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
