"""Generation: what every generator takes and gives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from console.progress import Report
from features.texts.tasks import Problem, Response
from language_models.language_model import LanguageModel


@dataclass(frozen=True)
class Generated:
    """The responses to one problem, and the hidden states that came with them.

    Args:
        problem: What was asked.
        responses: In the order of their numbers; none where there can be none, such as after too long a prompt.
        query_states: Of the prompt's last token at each depth; None if the generator gives none.
        response_states: Of each response's last token at each depth; None if the generator gives none.
        prompt_tokens: How many the prompt has; None where it is not known.
        refusal: Why there are no responses, in a few words; None where there are.
        dropped: Responses that were left out since the model cannot read them with their prompt.
    """

    problem: Problem
    responses: Sequence[Response]
    query_states: Float[Tensor, "L D"] | None = None
    response_states: Float[Tensor, "N L D"] | None = None
    prompt_tokens: int | None = None
    refusal: str | None = None
    dropped: int = 0


@runtime_checkable
class Generator(Protocol):
    """Gives responses to problems; what a subclass cannot do besides, it leaves at its default.

    Attributes:
        model: Its name, or its folder.
        num_responses: How many it gives to each problem; None for all that there are.
    """

    model: str
    num_responses: Any

    @property
    def language_model(self) -> LanguageModel | None:
        """The same as a model in this process, which can read hidden states; None if the model is elsewhere."""
        return None

    def on(self, device: str) -> "Generator | None":
        """The same on a device, not loaded yet; None if it sees to its devices itself.

        Args:
            device: Such as `cuda:1`.
        """
        return None

    @property
    def num_at_once(self) -> int:
        """Responses that grow at once."""
        return 64

    def searching(self, num_beams: int) -> "Generator | None":
        """One of the same weights that searches for the best response to each problem; None if it cannot.

        Args:
            num_beams: The width of the search.
        """
        return None

    def settings(self) -> dict[str, Any]:
        """All that one response depends on: not how many are asked for, nor how they are batched."""
        ...

    def generate(
        self, problems: Sequence[Problem], numbers: range, report: Report | None = None
    ) -> Iterator[Generated]:
        """The responses of these numbers to each problem, in the problems' order.

        A response depends on the settings, the problem and its number only, up to rounding: numbers 0 to 63 today and
        64 to 99 tomorrow are the same as 0 to 99 at once.

        Args:
            problems: A few, to be worked on together.
            numbers: Which responses, counted from 0.
            report: Told of each step, or of whatever goes on in between.
        """
        ...
