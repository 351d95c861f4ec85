"""Verdict: the result of a verifier for a response, and the interface of all verifiers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from features.texts.tasks import Task


@dataclass(frozen=True)
class Verdict:
    """The result of a verifier for a response.

    Args:
        label: The label, higher is better, from 0 to 1 for rules; None for no verdict, which is never treated as 0.
        reason: A few words that the report counts, such as `no answer` or `timed out`.
        answer: The compared answer in a normal form, equal for equal answers, for majority votes; None for no answer.
    """

    label: float | None
    reason: str = ""
    answer: str | None = None


@runtime_checkable
class Verifier(Protocol):
    """Labels responses."""

    def settings(self) -> dict[str, Any]:
        """All settings that the verdicts depend on."""
        ...

    def verify(self, responses: Iterable[tuple[Task, str]]) -> Iterator[Verdict]:
        """Yield a verdict for each response in order; bad responses never raise an error.

        Args:
            responses: Pairs of a task and a response.
        """
        ...
