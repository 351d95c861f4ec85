"""Tasks: queries to a language model, with references to judge its responses, before any response is sampled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from features.texts.groups import Split
from language_models.chat_template import Message


@dataclass(frozen=True)
class Response:
    """One response to a task.

    Args:
        id: The id of the response, unique in its task.
        text: The text, without the prompt and without special tokens.
        label: The label that the source gives; None if it gives none.
        tokens: The sampled token ids, including the end token; None if only the text is known.
        log_probability: Total log-probability of the tokens, in nats, in the model's distribution before temperature
            and truncation; None if it is unknown.
        finish: `stop` if the response ended, `length` if it was cut; None if it is unknown.
        self_certainty: Mean over the tokens of KL(uniform || model), in nats, in the same distribution (Kang et al.
            2025); None if it is unknown.
    """

    id: str
    text: str
    label: float | None = None
    tokens: Sequence[int] | None = None
    log_probability: float | None = None
    finish: str | None = None
    self_certainty: float | None = None


@dataclass(frozen=True)
class Task:
    """One query to a language model.

    Args:
        query_id: The id of the query, unique in its source.
        query: The text of the query, without instructions on the format of the answer.
        messages: The prompt of a chat model; the last message is the user's.
        reference: The reference for a verifier, as plain JSON values: an answer, tests, or calls.
        responses: Responses that already exist, in the order of the source.
        split: The split, if the source gives one.
        origin: The place in the source, such as `test.jsonl, line 7`, for error messages.
    """

    query_id: str
    query: str
    messages: Sequence[Message]
    reference: Any = None
    responses: Sequence[Response] = ()
    split: Split | None = None
    origin: str = ""


@runtime_checkable
class TaskSource(Protocol):
    """A source of tasks."""

    def fingerprint(self) -> dict[str, Any]:
        """Values that the tasks depend on, such as a file's hash: equal fingerprints mean equal tasks."""
        ...

    def problems(self) -> Iterator[Task]:
        """Yield every task, in the same order at each call.

        Raises:
            ConfigError: If some data is wrong; names every place.
        """
        ...
