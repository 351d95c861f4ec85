"""Sampler: samples responses to prompts; reads each prompt once, however many responses it gets.

Responses to several prompts grow in one batch, one token per step. A response that has ended leaves the batch at once,
and waiting responses take the free rows.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from console.progress import Report
from language_models.sampling.prompt import Drawing, Prompt
from language_models.sampling.prompt_cache import PromptCache
from language_models.sampling.prompt_sharing import PromptSharing, filled
from language_models.sampling.token_choice import Chosen, TokenChoice, numbers_of
from language_models.states.block_states import BlockStates, keeps_logits
from registry import ConfigError

# On a CPU, oneDNN prepares each shape of a matrix product when it first occurs, and remembers 1,024 by default. As
# responses leave the batch, more shapes occur; preparing them again would take an eighth of the time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

# Waiting responses join when this share of all rows is free, because steps stop while their prompts are read.
_FREE = 1 / 8


@dataclass(eq=False)
class Sample:
    """One response, growing or ended.

    Args:
        number: Number of the response among those to its prompt.
        draws: Random numbers in [0, 1), one for each token that the response may have.
        tokens: The tokens so far, including the one that ended the response.
        log_probability: Total log-probability of the tokens in nats, in the model's own distribution.
        certainty: Total of KL(uniform || model) over the tokens' distributions, in nats.
        finish: `stop` or `length` once the response has ended.
        states: Hidden states of the last token, one per layer.
    """

    number: int
    draws: np.ndarray
    tokens: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    certainty: float = 0.0
    finish: str | None = None
    states: Float[Tensor, "L D"] | None = None

    @property
    def self_certainty(self) -> float | None:
        """Mean over the tokens of KL(uniform || model), in nats; None if the model excludes a token."""
        return self.certainty / len(self.tokens) if math.isfinite(self.certainty) else None


@dataclass(eq=False)
class Sampled:
    """The responses to one prompt, in the order of their numbers; none if the prompt fills the context.

    Args:
        prompt: The prompt.
        samples: The responses.
        drawing: How the responses are drawn.
        states: Hidden states of the prompt's last token, one per layer.
        logits: Logits of the first response token, kept while some responses have not started.
        num_ended: Number of responses that are complete.
    """

    prompt: Prompt
    samples: list[Sample]
    drawing: Drawing
    states: Float[Tensor, "L D"] | None = None
    logits: Float[Tensor, " V"] | None = None
    num_ended: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether all responses are complete."""
        return self.num_ended == len(self.samples)


class Sampler:
    """Samples from a causal model.

    Args:
        model: A causal model of the transformers library with its language head.
        choice: How each token is chosen.
        end_tokens: Tokens that end a response.
        ends_text: Returns whether tokens end a response in another way, such as by a stop string.
        context: Largest number of tokens of prompt and response together; None if there is no limit.
        max_new_tokens: Longest response in tokens, including the end token.
        seed: Seed of all random numbers.
        layers: Blocks, counted from 1, whose states are kept for the last token of each prompt and response.
        batch_size: Number of responses that grow at the same time.
        batch_tokens: Tokens of prompts in one forward, padding included.

    Raises:
        ConfigError: If the model cannot grow responses in this way.
    """

    def __init__(
        self,
        model: Any,
        choice: TokenChoice,
        *,
        end_tokens: Collection[int],
        ends_text: Callable[[Sequence[int]], bool] | None = None,
        context: int | None = None,
        max_new_tokens: int = 1024,
        seed: int = 0,
        layers: Sequence[int] = (),
        batch_size: int = 64,
        batch_tokens: int = 4096,
    ) -> None:
        if max_new_tokens < 1 or batch_size < 1:
            raise ValueError(f"max_new_tokens ({max_new_tokens}) and batch_size ({batch_size}) must be at least 1")
        self.drawing = Drawing(choice, end_tokens, ends_text, max_new_tokens, seed)
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self._model, self._context = model, context
        self.device = model.get_input_embeddings().weight.device
        sharing = PromptSharing(model)
        self.shared, self.attention = _shares(model, sharing, context), sharing.attention
        self.states = BlockStates(model, layers)
        self._last_only = {"logits_to_keep": 1} if keeps_logits(model) else {}

    def sample(self, prompts: Sequence[Prompt], numbers: range, report: Report | None = None) -> Iterator[Sampled]:
        """Yield the responses with these numbers to each prompt, in the order of the prompts.

        Args:
            prompts: The prompts; their responses share batches.
            numbers: The numbers of the responses to sample.
            report: Called after each step.
        """
        batch = GrowingBatch(self, report or (lambda responses, tokens: None))
        for each in [batch.add(prompt, numbers) for prompt in prompts]:
            while not each.has_ended:
                batch.advance()
            each.logits = None
            yield each

    def begin(self, prompt: Prompt, numbers: range) -> Sampled:
        """The responses with these numbers to a prompt, without tokens yet."""
        drawing = prompt.drawing or self.drawing
        room = drawing.max_new_tokens
        if self._context is not None:
            room = min(room, self._context - len(prompt.tokens))
        if room < 1 or not prompt.tokens:
            return Sampled(prompt, [], drawing)
        samples = [Sample(number, numbers_of(drawing.seed, prompt.id, number, room)) for number in numbers]
        return Sampled(prompt, samples, drawing)

    def logits(self, ids: Int[Tensor, "B T"], inputs: dict[str, Any]) -> Float[Tensor, "B V"]:
        """The logits of the next token, in fp32."""
        return self._model(input_ids=ids, **inputs, **self._last_only).logits[:, -1].float()


class GrowingBatch:
    """The responses that grow now, in the order of the cache's rows, and those that wait.

    Prompts may be added at any time: their responses join as soon as enough rows are free, or, where a model's own
    attention has to be used, when the batch is empty.

    Args:
        sampler: The sampler, with its options.
        report: Called after each step.
    """

    def __init__(self, sampler: Sampler, report: Report) -> None:
        self._sampler, self._report = sampler, report
        self._cache = PromptCache(shared=sampler.shared)
        self._waiting: deque[tuple[Sampled, Sample]] = deque()
        self._rows: list[tuple[Sampled, Sample]] = []
        self._read: list[Sampled] = []

    def add(self, prompt: Prompt, numbers: range) -> Sampled:
        """Let the responses with these numbers to a prompt wait; they grow in the result."""
        sampled = self._sampler.begin(prompt, numbers)
        self._waiting.extend((sampled, sample) for sample in sampled.samples)
        return sampled

    def drop(self, sampled: Sampled) -> None:
        """Give up the responses to a prompt that are not complete."""
        self._waiting = deque(each for each in self._waiting if each[0] is not sampled)
        self._remove([row for row, (of, _) in enumerate(self._rows) if of is sampled])

    @torch.no_grad()
    def advance(self) -> None:
        """Add one token to each growing response."""
        with self._sampler.states.taken():
            self._admit()
            if self._rows:
                self._step()

    def _admit(self) -> None:
        size, shared = self._sampler.batch_size, self._sampler.shared
        free = size - len(self._rows)
        if not self._waiting or (self._rows and (not shared or free < size * _FREE)):
            return
        coming = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        needed = {id(prompt) for prompt, _ in (*self._rows, *coming)}
        kept = [place for place, prompt in enumerate(self._read) if id(prompt) in needed]
        self._cache.keep_prompts(kept)
        self._read = [self._read[place] for place in kept]
        there = set(map(id, self._read))
        self._read_prompts(
            [prompt for prompt in dict.fromkeys(prompt for prompt, _ in coming) if id(prompt) not in there]
        )
        number = {id(prompt): place for place, prompt in enumerate(self._read)}
        for prompt, _ in coming:
            self._cache.add_rows(number[id(prompt)], 1)
        first = len(self._rows)
        self._rows += coming
        logits = torch.stack([prompt.logits for prompt, _ in coming if prompt.logits is not None])
        self._leave(self._choose(range(first, len(self._rows)), logits), len(coming))

    def _read_prompts(self, prompts: list[Sampled]) -> None:
        """Read prompts that the cache lacks, in batches of up to `batch_tokens` tokens, padded to the longest."""
        while prompts:
            longest, number = 0, 0
            for number, prompt in enumerate(prompts, start=1):
                longest = max(longest, len(prompt.prompt.tokens))
                if number > 1 and longest * number > self._sampler.batch_tokens:
                    number -= 1
                    break
            part, prompts = prompts[:number], prompts[number:]
            tokens = [each.prompt.tokens for each in part]
            ids, seen = filled(tokens, max(map(len, tokens)), left=True, device=self._sampler.device)
            logits = self._sampler.logits(ids, self._cache.prompts(seen))
            for place, each in enumerate(part):
                each.logits = logits[place]
                each.states = self._sampler.states.at([place])[0] if self._sampler.states.layers else None
            self._read += part

    def _step(self) -> None:
        last = torch.tensor([[sample.tokens[-1]] for _, sample in self._rows], device=self._sampler.device)
        with self._sampler.attention.through(self._cache):
            logits = self._sampler.logits(last, self._cache.step())
        # Responses that have already ended took part in this step only for the states of their last token.
        ended = [row for row, (_, sample) in enumerate(self._rows) if sample.finish]
        if ended:
            for row, states in zip(ended, self._sampler.states.at(ended), strict=True):
                self._rows[row][1].states = states
        growing = [row for row, (_, sample) in enumerate(self._rows) if not sample.finish]
        leaving = self._choose(growing, logits[growing] if ended else logits) if growing else []
        self._leave([*ended, *leaving], len(growing))

    def _choose(self, rows: Sequence[int], logits: Float[Tensor, "n V"]) -> list[int]:
        """Choose the next token of these rows; return the rows that are complete."""
        growing = [self._rows[row][1] for row in rows]
        draws = torch.tensor([sample.draws[len(sample.tokens)] for sample in growing], dtype=torch.float64)
        chosen = self._chosen(rows, logits, draws.to(logits.device))
        leaving = []
        for row, sample, token, added, certainty in zip(
            rows, growing, *(each.tolist() for each in chosen), strict=True
        ):
            sample.tokens.append(token)
            sample.log_probability += added
            sample.certainty += certainty
            sample.finish = _end_of(sample, self._rows[row][0].drawing)
            if sample.finish and not self._sampler.states.layers:
                leaving.append(row)
        return leaving

    def _chosen(self, rows: Sequence[int], logits: Float[Tensor, "n V"], draws: Float[Tensor, " n"]) -> Chosen:
        """The next token of each of these rows, each by the choice of its prompt."""
        places: dict[TokenChoice, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(self._rows[row][0].drawing.choice, []).append(place)
        if len(places) == 1:
            (choice,) = places
            return choice(logits, draws)
        found = [choice(logits[some], draws[some]) for choice, some in places.items()]
        order = torch.tensor([place for some in places.values() for place in some], device=logits.device).argsort()
        return Chosen(*(torch.cat(parts)[order] for parts in zip(*found, strict=True)))

    def _leave(self, rows: Sequence[int], num_tokens: int) -> None:
        for row in rows:
            self._rows[row][0].num_ended += 1
        self._remove(rows)
        self._report(len(rows), num_tokens)

    def _remove(self, rows: Sequence[int]) -> None:
        for row in sorted(rows, reverse=True):
            self._cache.remove_row(row)
            self._rows[row] = self._rows[-1]
            self._rows.pop()


def _end_of(sample: Sample, drawing: Drawing) -> str | None:
    """Why a response ends with its last token; None if it goes on."""
    if sample.tokens[-1] in drawing.end_tokens or (drawing.ends_text and drawing.ends_text(sample.tokens)):
        return "stop"
    return "length" if len(sample.tokens) == len(sample.draws) else None


def _shares(model: Any, sharing: PromptSharing, context: int | None) -> bool:
    if sharing.is_causal():
        if sharing.steps(shared=True, longest=context):
            return True
        if sharing.steps(shared=False):
            return False
    problem = f"{type(model).__name__} does not support the key-value cache that sampling needs."
    cure = "use another model, a later version of transformers, or the generator `vllm`"
    raise ConfigError("features.generator.model", problem, cure=cure)
