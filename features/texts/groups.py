"""Text groups: a query with its candidates, as a source yields them, before any text is embedded."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from registry import ConfigError

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Candidate:
    """One candidate of a query.

    Args:
        id: The id of the candidate, unique in its group.
        text: The text that rankers read.
        label: Relevance, higher is better; None if it is unknown.
        feature: A vector computed elsewhere, to use instead of the encoder's.
        performance: How well the candidate answers the query, if it is a model to choose.
        cost: What its answer costs; None if it is unknown.
    """

    id: str
    text: str
    label: float | None = None
    feature: list[float] | None = None
    performance: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class TextGroup:
    """A query and its candidates, in the source's order.

    Args:
        query_id: The id of the query, unique in its source.
        query: The text of the query.
        candidates: At least one candidate.
        feature: The query's vector, if it was computed elsewhere; then every candidate has one of the same size.
        answer: The reference answer, for sources whose labels a verifier makes.
        split: The split, if the source gives one.
        origin: The place in the source, such as `groups.jsonl, line 7`, for error messages.
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
    """A source of text groups."""

    def fingerprint(self) -> dict[str, Any]:
        """Values that the groups depend on, such as a file's hash: equal fingerprints mean equal groups."""
        ...

    def groups(self) -> Iterator[TextGroup]:
        """Yield every group, in the same order at each call.

        Raises:
            ConfigError: If some data is wrong; names every place.
        """
        ...


def grades(groups: Iterable[TextGroup]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """The labelled candidates of each group, by id."""
    for group in groups:
        yield group.query_id, {each.id: each.label for each in group.candidates if each.label is not None}


def checked(groups: Iterable[TextGroup], *, with_features: bool = False) -> Iterator[TextGroup]:
    """Check each group before yielding it.

    Args:
        groups: The groups of any source.
        with_features: Whether each query and candidate must have a vector.

    Raises:
        ConfigError: For the first group without candidates, or with an empty text, a repeated id, an infinite label or
            a missing vector.
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
