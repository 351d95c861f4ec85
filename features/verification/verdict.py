"""Verification: responses become verdicts, in worker processes that are stopped when they take too long."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from features.texts.tasks import Problem


@dataclass(frozen=True)
class Verdict:
    """What a verifier found.

    Args:
        label: Higher is better, 0 to 1 for a rule; None where there is no verdict, which is never taken for a 0.
        reason: A few words for whoever counts them, such as `no answer` or `timed out`.
        answer: What was compared, in a form that is equal for equal answers, for majority votes; None if there is none.
    """

    label: float | None
    reason: str = ""
    answer: str | None = None


@runtime_checkable
class Verifier(Protocol):
    """Labels responses."""

    def settings(self) -> dict[str, Any]:
        """All that its verdicts depend on."""
        ...

    def verify(self, responses: Iterable[tuple[Problem, str]]) -> Iterator[Verdict]:
        """A verdict for each response, in their order; bad responses never raise.

        Args:
            responses: Each with its problem.
        """
        ...
