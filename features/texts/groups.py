"""Text groups: what a source yields, a query and its candidates, before anything is embedded."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from registry import ConfigError

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Candidate:
    """One candidate of a query.

    Args:
        id: Names it within its group.
        text: What a ranker scores.
        label: Relevance, higher is better; None if it is not known.
        feature: A vector made elsewhere, to be used in place of the encoder's.
    """

    id: str
    text: str
    label: float | None = None
    feature: list[float] | None = None


@dataclass(frozen=True)
class TextGroup:
    """A query and its candidates, in the source's order.

    Args:
        query_id: Names the query within its source.
        query: Its text.
        candidates: At least one.
        feature: The query's vector, if it was made elsewhere; then every candidate has one, of the same size.
        answer: The reference answer, for sources whose labels a verifier makes.
        split: Where the source says which part it belongs to.
        origin: Where it stands in its source, such as `groups.jsonl, line 7`, for error messages.
    """

    query_id: str
    query: str
    candidates: list[Candidate]
    feature: list[float] | None = None
    answer: str | None = None
    split: Split | None = None
    origin: str = ""


@runtime_checkable
class Source(Protocol):
    """Where text groups come from."""

    def fingerprint(self) -> dict[str, Any]:
        """What its groups depend on, such as a file's hash: equal fingerprints mean equal groups."""
        ...

    def groups(self) -> Iterator[TextGroup]:
        """Every group, in the same order each time.

        Raises:
            ConfigError: If some of the data is not as it should be; every place is named.
        """
        ...


def checked(groups: Iterable[TextGroup], *, with_features: bool = False) -> Iterator[TextGroup]:
    """The same groups, each looked at before it is passed on.

    Args:
        groups: Of any source.
        with_features: Whether each query and candidate must have a vector.

    Raises:
        ConfigError: For the first group without candidates, empty text, repeated id, infinite label or missing vector.
    """
    seen: set[str] = set()
    for group in groups:
        if problem := _problem(group, seen, with_features):
            raise ConfigError(group.origin or f"group {group.query_id}", f"{problem}.")
        seen.add(group.query_id)
        yield group


def _problem(group: TextGroup, seen: set[str], with_features: bool) -> str | None:
    ids = [candidate.id for candidate in group.candidates]
    if group.query_id in seen:
        return f"another group has the query_id {group.query_id!r}"
    if not ids:
        return f"query {group.query_id!r} has no candidates"
    if len(set(ids)) < len(ids):
        return f"query {group.query_id!r} has two candidates with the id {max(ids, key=ids.count)!r}"
    if not group.query.strip():
        return f"the text of query {group.query_id!r} is empty"
    for candidate in group.candidates:
        if not candidate.text.strip():
            return f"the text of candidate {candidate.id!r} of query {group.query_id!r} is empty"
        if candidate.label is not None and not math.isfinite(candidate.label):
            return f"the label of candidate {candidate.id!r} of query {group.query_id!r} is {candidate.label}"
    if with_features and any(
        vector is None for vector in (group.feature, *(each.feature for each in group.candidates))
    ):
        return f"query {group.query_id!r} or one of its candidates has no feature, and there is no encoder to make it"
    return None
