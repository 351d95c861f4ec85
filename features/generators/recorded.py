"""recorded: responses that exist already, as their source gives them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from console.progress import Report
from features.responses.generation import Generated, Generator
from features.texts.tasks import Problem
from language_models.language_model import LanguageModel
from registry import GENERATORS
from registry.ranges import Count


@GENERATORS.register("recorded")
@dataclass(frozen=True)
class RecordedGenerator(LanguageModel, Generator):
    """Gives the responses of the source; the model, usually the one that gave them, is asked for hidden states only.

    A prompt is made of the messages as if the model were to respond now. Where a response comes with its tokens, they
    follow it; where it does not, those of its text do, then the token that ends the model's turn unless the response is
    marked as cut.

    Args:
        depths: Of the hidden states, as fractions of all layers; none for texts alone.
        num_responses: To each problem, the first ones; null for all.
    """

    num_responses: Count | None = None

    @property
    def language_model(self) -> LanguageModel:
        """The model that reads hidden states."""
        return self

    def settings(self) -> dict[str, Any]:
        """Nothing: the responses depend on their source alone."""
        return {"name": "recorded"}

    def generate(
        self, problems: Sequence[Problem], numbers: range, report: Report | None = None
    ) -> Iterator[Generated]:
        """The responses of these numbers, as far as there are any, as they are; `with_states` reads them.

        Args:
            problems: Any number.
            numbers: Which responses, counted from 0.
            report: Told of each problem's.
        """
        for problem in problems:
            responses = problem.responses[numbers.start : numbers.stop : numbers.step]
            if report:
                report(len(responses), 0)
            yield Generated(problem, responses, refusal=None if responses else "no response")
