"""Problems: what a language model is asked, and what its responses are judged by, before anything is sampled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from features.texts.groups import Split
from language_models.chat_template import Message


@dataclass(frozen=True)
class Response:
    """One response to a problem.

    Args:
        id: Names it within its problem.
        text: Without the prompt and without special tokens.
        label: As its source gives it; None where it gives none.
        tokens: The ids that were sampled, the stopping one included; None where only the text is known.
        log_probability: Of all its tokens together, in nats, under the distribution they were sampled from before
            temperature and truncation; None where it is not known.
        finish: `stop` if it came to an end, `length` if it was cut; None where it is not known.
    """

    id: str
    text: str
    label: float | None = None
    tokens: Sequence[int] | None = None
    log_probability: float | None = None
    finish: str | None = None


@dataclass(frozen=True)
class Problem:
    """One query to a language model.

    Args:
        query_id: Names it within its source.
        query: Its text as a reader sees it, without instructions about form.
        messages: What a chat model is given; the last one is the user's.
        reference: What a verifier needs, as plain JSON values: an answer, tests, calls.
        responses: Such as exist already, in the source's order.
        split: Where the source says which part it belongs to.
        origin: Where it stands in its source, such as `test.jsonl, line 7`, for error messages.
    """

    query_id: str
    query: str
    messages: Sequence[Message]
    reference: Any = None
    responses: Sequence[Response] = ()
    split: Split | None = None
    origin: str = ""


@runtime_checkable
class ProblemSource(Protocol):
    """Where problems come from."""

    def fingerprint(self) -> dict[str, Any]:
        """What its problems depend on, such as a file's hash: equal fingerprints mean equal problems."""
        ...

    def problems(self) -> Iterator[Problem]:
        """Every problem, in the same order each time.

        Raises:
            ConfigError: If some of the data is not as it should be; every place is named.
        """
        ...
