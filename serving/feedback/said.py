"""Said: one piece of feedback, as candidates of a query with labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from language_models.chat_template import Message


@dataclass(frozen=True)
class Said:
    """What a user said about the candidates of a query.

    Args:
        kind: `pick`, `pair` or `scores`.
        query: The query, a text or a chat.
        candidates: At least two texts.
        labels: One number each, higher is better: 1 for what was picked or preferred, else 0; or the user's scores.

    Raises:
        ValueError: If there is nothing to learn from it.
    """

    kind: str
    query: str | Sequence[Message]
    candidates: Sequence[str]
    labels: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.candidates) < 2:
            raise ValueError("there is only one candidate, so nothing was preferred to another")
        if len(set(self.labels)) < 2:
            raise ValueError("no candidate was preferred to another")

    def content(self) -> dict[str, Any]:
        """As plain values."""
        lists = {"candidates": list(self.candidates), "labels": list(self.labels)}
        return {"kind": self.kind, "query": self.query, **lists}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Said":
        """What `content` returned."""
        return cls(**content)
