"""recorded: gives responses that already exist in the source."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from console.progress import Report
from features.responses.generation import Generated, Generator
from features.texts.tasks import Task
from language_models.language_model import LanguageModel
from registry import GENERATORS
from registry.ranges import Count


@GENERATORS.register("recorded")
@dataclass(frozen=True)
class RecordedGenerator(LanguageModel, Generator):
    """Gives the responses of the source; the model, usually the one that made them, only reads hidden states.

    The messages become a prompt as if the model responded now. The tokens of the response follow: its recorded tokens
    if the source has them, else the tokens of its text and the token that ends the model's turn, unless the response is
    marked as cut.

    Args:
        depths: Depths of the hidden states to keep, as fractions of all layers, in (0, 1]; empty for no states.
        num_responses: Number of responses to use for each task, from the first; null for all.
    """

    num_responses: Count | None = None

    @property
    def language_model(self) -> LanguageModel:
        """The model that reads hidden states."""
        return self

    def settings(self) -> dict[str, Any]:
        """No settings: the responses depend only on their source."""
        return {"name": "recorded"}

    def generate(self, tasks: Sequence[Task], numbers: range, report: Report | None = None) -> Iterator[Generated]:
        """Yield the responses with these numbers, if they exist, without states; `with_states` reads those.

        Args:
            tasks: Any number of tasks.
            numbers: The numbers of the responses, counted from 0.
            report: Called after each task.
        """
        for task in tasks:
            responses = task.responses[numbers.start : numbers.stop : numbers.step]
            if report:
                report(len(responses), 0)
            yield Generated(task, responses, refusal=None if responses else "no response")
