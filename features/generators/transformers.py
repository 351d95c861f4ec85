"""transformers: samples or searches responses with a model of the transformers library in this process."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from console.progress import Report
from features.building.chunks import chunks_of
from features.responses.generation import Generated
from features.responses.sampling_generator import SamplingGenerator
from features.responses.states import with_states
from features.texts.tasks import Response, Task
from language_models.sampling.prompt import Drawing, Prompt
from language_models.sampling.token_choice import TokenChoice
from registry import GENERATORS
from registry.ranges import Count, Few

if TYPE_CHECKING:
    from language_models.sampling.sampler import GrowingBatch, Sampled

# Options that responses do not depend on.
_OF_A_RUN = ("num_responses", "depths", "layer_offset", "batch_size")


@GENERATORS.register("transformers")
@dataclass(frozen=True)
class TransformersGenerator(SamplingGenerator):
    """Samples from a causal model, and keeps hidden states while it samples.

    Args:
        batch_tokens: Tokens of prompts in a forward, padding included; larger batches are faster on a GPU.
        num_beams: If above 1, the responses are not drawn but are the results of a beam search, best first.
        batch_size: Number of responses that grow at the same time; on a GPU, set as many as its memory allows.
    """

    num_beams: Few = 1
    batch_size: Count = 64

    writes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if 1 < self.num_beams < self.num_responses:
            raise ValueError(f"num_responses ({self.num_responses}) is more than num_beams ({self.num_beams})")

    def on(self, device: str) -> "TransformersGenerator":
        """A copy on another device; nothing is loaded yet.

        Args:
            device: The name of the device, such as `cuda:1`.
        """
        return replace(self, device=device)

    @property
    def num_at_once(self) -> int:
        """Number of responses that grow at the same time."""
        return self.batch_size

    def searching(self, num_beams: int) -> "TransformersGenerator":
        """A generator with the same weights that searches for the best response to each task.

        Args:
            num_beams: The width of the search.
        """
        # Reset sampling options: they must not change the beam search's cache key.
        drawing = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0}
        return self.twin(num_beams=num_beams, num_responses=1, depths=[], **drawing)

    def settings(self) -> dict[str, Any]:
        """All settings that a response depends on."""
        fields = super().settings().items()
        return {"name": "transformers", **{name: value for name, value in fields if name not in _OF_A_RUN}}

    def generate(self, tasks: Sequence[Task], numbers: range, report: Report | None = None) -> Iterator[Generated]:
        """Yield the responses with these numbers to each task, with hidden states if depths are set.

        Args:
            tasks: The tasks; their responses share batches.
            numbers: The numbers of the responses, counted from 0.
            report: Called after each step.

        Raises:
            ConfigError: If the model or its template cannot be used.
        """
        prompts = [self.prompt(task) for task in tasks]
        if self.num_beams > 1:
            found = self._searched(list(zip(tasks, prompts, strict=True)), numbers, report)
            yield from found if not self.depths else with_states(self, found)
            return
        for task, sampled in zip(tasks, self._sampler.sample(prompts, numbers, report), strict=True):
            yield self.generated(task, sampled)

    def prompt(self, task: Task) -> Prompt:
        """The prompt of a task, whose responses are drawn and end as this generator says.

        Raises:
            ConfigError: If the model or its template cannot be used.
        """
        return Prompt(task.query_id, self.chat.prompt(task.messages), self._drawing)

    def growing_batch(self, report: Report | None = None) -> "GrowingBatch":
        """An empty batch, which prompts of this generator and of its twins can join at any time.

        Args:
            report: Called after each step.
        """
        from language_models.sampling.sampler import GrowingBatch  # here, since it loads transformers

        return GrowingBatch(self._sampler, report or (lambda responses, tokens: None))

    def generated(self, task: Task, sampled: "Sampled") -> Generated:
        """The complete responses to the prompt of a task."""
        responses = [
            replace(
                self._response(each.number, each.tokens, each.log_probability, each.finish),
                self_certainty=each.self_certainty,
            )
            for each in sampled.samples
        ]
        states = [each.states for each in sampled.samples if each.states is not None]
        return Generated(
            task,
            responses,
            sampled.states if states else None,
            torch.stack(states) if states else None,
            len(sampled.prompt.tokens),
            None if responses else self.refusal(len(sampled.prompt.tokens)),
        )

    def _searched(
        self, asked: Sequence[tuple[Task, Prompt]], numbers: range, report: Report | None
    ) -> Iterator[Generated]:
        """The best beams; a batch has tasks whose responses may have the same number of tokens."""
        from language_models.sampling.beam_search import search  # here, since it loads transformers

        for room, together in itertools.groupby(asked, lambda each: self.room(len(each[1].tokens))):
            for batch in chunks_of(together, max(1, self.batch_size // self.num_beams)):
                tokens, found = [prompt.tokens for _, prompt in batch], [[]] * len(batch)
                if room:
                    stops = self._stops if self.stop else None
                    counts = self.num_beams, min(numbers.stop, self.num_beams)
                    found = search(self.loaded, tokens, *counts, room, self._ends, stops)
                for (task, prompt), beams in zip(batch, found, strict=True):
                    responses = [self._response(number, *beams[number]) for number in numbers if number < len(beams)]
                    if report:
                        report(len(responses), sum(len(response.tokens or ()) for response in responses))
                    refusal = self.refusal(len(prompt.tokens))
                    yield Generated(task, responses, prompt_tokens=len(prompt.tokens), refusal=refusal)

    def _response(self, number: int, tokens: list[int], log_probability: float, finish: str | None) -> Response:
        text = self.text_of(tokens)
        return Response(str(number), text, tokens=tokens, log_probability=log_probability, finish=finish)

    @cached_property
    def _sampler(self) -> Any:
        from language_models.sampling.sampler import Sampler  # here, since it loads transformers

        drawing = self._drawing
        return Sampler(
            self.loaded,
            drawing.choice,
            end_tokens=drawing.end_tokens,
            ends_text=drawing.ends_text,
            context=self.context,
            max_new_tokens=drawing.max_new_tokens,
            seed=drawing.seed,
            layers=self.layers,
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
        )

    @cached_property
    def _drawing(self) -> Drawing:
        return Drawing(
            TokenChoice(self.temperature, self.top_p, self.top_k),
            self._ends,
            self._stops if self.stop else None,
            self.max_new_tokens,
            self.seed,
        )
