"""Group rows: numbers the candidates of text groups as rows of a group store."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from features.texts.groups import Candidate, TextGroup
from registry import ConfigError


class Item(NamedTuple):
    """A text that is embedded and stored once, in however many groups it occurs, and its vector if it came with one."""

    text: str
    feature: tuple[float, ...] | None = None


class Slot(NamedTuple):
    """A candidate in its group: its row in the store, and its data in the group; numbers are nan if unknown."""

    row: int
    id: str
    label: float
    injected: bool = False
    performance: float = math.nan
    cost: float = math.nan


def item_of(text: TextGroup | Candidate) -> Item:
    """The text and vector of a group's query or of a candidate."""
    feature = None if text.feature is None else tuple(text.feature)
    return Item(text.query if isinstance(text, TextGroup) else text.text, feature)


def number_items(groups: Iterable[TextGroup], first: int = 0) -> dict[Item, int]:
    """Number the distinct candidates in order of occurrence, starting at row `first`."""
    rows: dict[Item, int] = {}
    for group in groups:
        for candidate in group.candidates:
            rows.setdefault(item_of(candidate), first + len(rows))
    return rows


def given_slots(group: TextGroup, rows: Mapping[Item, int]) -> list[Slot]:
    """The slots of a group as its source gives it."""
    return [
        Slot(
            rows[item_of(each)],
            each.id,
            _number(each.label),
            performance=_number(each.performance),
            cost=_number(each.cost),
        )
        for each in group.candidates
    ]


def retrieved_slots(
    group: TextGroup, nearest: Sequence[int], rows: Mapping[Item, int], ids: Sequence[str]
) -> list[Slot]:
    """The candidates that retrieval found for a query, then its relevant candidates that retrieval missed, as injected.

    Args:
        group: The query and its own candidates.
        nearest: Rows of the candidates that retrieval found, best first.
        rows: The rows of all candidates of the pool.
        ids: The id of each row.
    """
    own: dict[int, Slot] = {}
    for slot in given_slots(group, rows):
        # Of candidates with the same text, the one with the highest known label counts.
        known = own.setdefault(slot.row, slot)
        if slot.label > known.label or math.isnan(known.label) > math.isnan(slot.label):
            own[slot.row] = slot
    slots = [own.get(row, Slot(row, ids[row], 0.0)) for row in nearest]
    found = set(nearest)
    return slots + [slot._replace(injected=True) for row, slot in own.items() if slot.label > 0 and row not in found]


def pool_ids(groups: Iterable[TextGroup], rows: Mapping[Item, int]) -> list[str]:
    """The id of each row of a pool, in which every group can get every candidate.

    Raises:
        ConfigError: If an id stands for two candidates.
    """
    ids: dict[int, str] = {}
    row_of: dict[str, int] = {}
    for group in groups:
        for candidate in group.candidates:
            row = rows[item_of(candidate)]
            ids.setdefault(row, candidate.id)
            if row_of.setdefault(candidate.id, row) != row:
                cure = "give each text of the pool its own id, or leave `retrieve` out to keep the groups as they are"
                problem = f"the candidate id {candidate.id!r} stands for two texts; `retrieve` could join them."
                raise ConfigError(group.origin or group.query_id, problem, cure=cure)
    return list(ids.values())


def in_chunks(groups: Iterable[TextGroup], size: int) -> Iterator[list[TextGroup]]:
    """Split groups into runs with at least `size` candidates each; the last run may have fewer."""
    chunk: list[TextGroup] = []
    count = 0
    for group in groups:
        chunk.append(group)
        count += len(group.candidates)
        if count >= size:
            yield chunk
            chunk, count = [], 0
    if chunk:
        yield chunk


def _number(value: float | None) -> float:
    return math.nan if value is None else value
