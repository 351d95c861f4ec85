"""Generation: the interface of all generators."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from console.progress import Report
from features.texts.tasks import Response, Task
from language_models.asking.replies import Chat, Reply
from language_models.language_model import LanguageModel


@dataclass(frozen=True)
class Generated:
    """The responses to one task, and their hidden states if the generator gives them.

    Args:
        task: The task.
        responses: The responses, in the order of their numbers; empty if none is possible, as for a too long prompt.
        query_states: States of the prompt's last token at each depth; None if the generator gives none.
        response_states: States of each response's last token at each depth; None if the generator gives none.
        prompt_tokens: Number of tokens of the prompt; None if it is unknown.
        refusal: Why there are no responses, in a few words; None if there are responses.
        dropped: Number of responses left out because they are too long for the model with their prompt.
    """

    task: Task
    responses: Sequence[Response]
    query_states: Float[Tensor, "L D"] | None = None
    response_states: Float[Tensor, "N L D"] | None = None
    prompt_tokens: int | None = None
    refusal: str | None = None
    dropped: int = 0


@runtime_checkable
class Generator(Protocol):
    """Gives responses to tasks; the defaults of optional methods mean that a generator does not support them.

    Attributes:
        model: The name or folder of the model.
        num_responses: Number of responses to each task; None for all that exist.
    """

    model: str
    num_responses: Any

    @property
    def language_model(self) -> LanguageModel | None:
        """The generator's model in this process, which can read hidden states; None if it runs elsewhere."""
        return None

    def on(self, device: str) -> "Generator | None":
        """A copy on another device, without loaded models; None if the generator manages devices itself.

        Args:
            device: The name of the device, such as `cuda:1`.
        """
        return None

    @property
    def num_at_once(self) -> int:
        """Number of responses that grow at the same time."""
        return 64

    def searching(self, num_beams: int) -> "Generator | None":
        """A generator with the same weights that searches for the best response; None if not supported.

        Args:
            num_beams: The width of the search.
        """
        return None

    def asking(self, *, temperature: float, max_new_tokens: int) -> "Generator":
        """A generator with the same model that gives one response to each chat, for rankers that ask it.

        Args:
            temperature: Divisor of the logits; 0 always takes the likeliest token.
            max_new_tokens: Longest response in tokens.

        Raises:
            ValueError: If it cannot answer new chats, or its own options say something else.
        """
        raise ValueError(f"{type(self).__name__} only gives responses that exist already, so it cannot be asked")

    def prepare(self) -> None:
        """Load what is needed now instead of at the first response."""

    def check(self, *, download: bool) -> None:
        """Refuse a model that cannot work, as far as this can be known without its weights.

        Args:
            download: Whether to download a model that is not on this machine; if not, it is not checked.
        """

    def replies(self, chats: Sequence[Chat]) -> Iterator[Reply]:
        """Yield one reply to each chat, in order; drawn tokens depend on the chat, not on its place."""
        tasks = [Task(chat_id(chat), "", chat) for chat in chats]
        for found in self.generate(tasks, range(1)):
            if not found.responses:
                yield Reply("", found.prompt_tokens, 0, found.refusal or "no response")
                continue
            tokens = found.responses[0].tokens
            yield Reply(found.responses[0].text, found.prompt_tokens, None if tokens is None else len(tokens))

    def likelihoods(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[list[float]] | None:
        """The log-probability of each of these answers to each chat, in nats; None if the model does not tell."""
        return None

    def settings(self) -> dict[str, Any]:
        """All settings that a response depends on, without the number of responses and the batch size."""
        ...

    def generate(self, tasks: Sequence[Task], numbers: range, report: Report | None = None) -> Iterator[Generated]:
        """Yield the responses with these numbers to each task, in the order of the tasks.

        A response depends only on the settings, the task and its number, up to rounding: numbers 0 to 63 today and
        64 to 99 tomorrow give the same responses as 0 to 99 at once.

        Args:
            tasks: A few tasks, which are processed together.
            numbers: The numbers of the responses, counted from 0.
            report: Called after each step, or at other progress in between.
        """
        ...


def chat_id(chat: Chat) -> str:
    """An id of a chat, equal for equal chats, on which the draws of its responses depend.

    >>> chat_id([{"role": "user", "content": "a"}]) == chat_id([{"role": "user", "content": "b"}])
    False
    """
    return hashlib.sha256(repr([dict(each) for each in chat]).encode()).hexdigest()


def check_asking(generator: Any, temperature: float, max_new_tokens: int) -> None:
    """Refuse options of a generator that whoever asks it would override.

    Raises:
        ValueError: If it has another temperature, length or number of responses than its defaults or the asked ones.
    """
    asked = {"temperature": temperature, "max_new_tokens": max_new_tokens, "num_responses": 1}
    defaults = {field.name: field.default for field in fields(generator)}
    for name, value in asked.items():
        if getattr(generator, name) not in (value, defaults[name]):
            raise ValueError(f"{name} is {getattr(generator, name)}, but the ranker asks with {value}: leave it out")
