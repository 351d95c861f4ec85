"""Reply: what a language model answered, or why it did not, and Writer: whatever gives replies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from language_models.chat_template import Message

Chat = Sequence[Message]


@dataclass(frozen=True)
class Reply:
    """A reply to one chat.

    Args:
        text: What the model wrote; empty if it wrote nothing.
        prompt_tokens: Number of tokens that it read; None if it is unknown.
        new_tokens: Number of tokens that it wrote; None if it is unknown.
        refusal: Why there is no reply, such as a prompt that is too long; None if there is one.
    """

    text: str
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    refusal: str | None = None


@runtime_checkable
class Writer(Protocol):
    """A language model that answers in words."""

    def settings(self) -> dict[str, Any]:
        """All settings that a reply depends on."""
        ...

    def asking(self, *, temperature: float, max_new_tokens: int) -> "Writer":
        """A writer with the same model that gives one reply to each chat.

        Args:
            temperature: Divisor of the logits; 0 always takes the likeliest token.
            max_new_tokens: Longest reply in tokens.

        Raises:
            ValueError: If it cannot answer new chats, or its own options say something else.
        """
        ...

    def prepare(self) -> None:
        """Load what is needed now instead of at the first reply."""
        ...

    def check(self, *, download: bool) -> None:
        """Refuse a model that cannot work, as far as this can be known without its weights.

        Args:
            download: Whether to download a model that is not on this machine; if not, it is not checked.
        """
        ...

    def replies(self, chats: Sequence[Chat]) -> Iterator[Reply]:
        """Yield one reply to each chat, in order; a chat that the model refuses gets a reply that says so."""
        ...

    def likelihoods(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[list[float]] | None:
        """The log-probability of each of these answers to each chat, in nats; None if the model does not tell."""
        ...
