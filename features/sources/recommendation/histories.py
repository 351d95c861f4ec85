"""Histories: what users did, in the order of time, as queries whose right answer is what they did next."""

import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval

from features.texts.groups import Split
from features.texts.pools import PoolQuery
from registry import ConfigError
from registry.ranges import Count, Few

# Rankers cut texts at their end, where the oldest items are the smallest loss. No word of this is common in titles,
# which BM25 would find.
_TEXT = "Newest to oldest: {}"


@dataclass(frozen=True)
class Windows:
    """Which parts of a user's interactions become queries: leave-one-out, as is usual in sequential recommendation.

    The last interaction is to be found in the test, the one before it in validation, earlier ones in training.

    Args:
        history: How many interactions a query tells of, those just before the one to be found.
        min_history: It may be as few as this, where the user has no more; null asks for all of them.
        stride: Interactions between one training query of a user and the next.
        max_windows: Training queries of a user, the latest ones; null for all.
    """

    history: Few = 20
    min_history: Few | None = None
    stride: Count = 1
    max_windows: Annotated[int, Interval(ge=0, le=1_000_000)] | None = None

    def __post_init__(self) -> None:
        """Refuse a smallest history above the largest."""
        if self.fewest > self.history:
            raise ValueError(f"min_history ({self.min_history}) must be from 1 to history ({self.history})")

    @property
    def fewest(self) -> int:
        """The smallest history of a query."""
        return self.history if self.min_history is None else self.min_history

    @property
    def settings(self) -> dict[str, Any]:
        """What the queries depend on, the wording of their texts included."""
        return {**vars(self), "min_history": self.fewest, "text": _TEXT}

    def of(self, num_interactions: int) -> list[tuple[int, Split]]:
        """The places of the interactions to be found by, and their splits, in the order of time.

        >>> Windows(history=2).of(5)
        [(2, 'train'), (3, 'val'), (4, 'test')]
        """
        last = num_interactions - 1
        train = itertools.islice(range(last - 2, self.fewest - 1, -self.stride), self.max_windows)
        found: list[tuple[int, Split]] = [(place, "train") for place in sorted(train)]
        held_out: list[tuple[int, Split]] = [(last - 1, "val"), (last, "test")]
        return found + [(place, split) for place, split in held_out if place >= self.fewest]


class Histories:
    """The interactions of all users, a few bytes each.

    Args:
        interactions: User, item and time of each; of equal times the earlier one in this order came first, and of an
            item that a user comes back to only the first time counts.
    """

    def __init__(self, interactions: Iterable[tuple[str, str, float]]) -> None:
        users: dict[str, int] = {}
        items: dict[str, int] = {}
        user_codes, item_codes, times = array("q"), array("q"), array("d")
        for user, item, time in interactions:
            user_codes.append(users.setdefault(user, len(users)))
            item_codes.append(items.setdefault(item, len(items)))
            times.append(time)
        self.users, self.items = list(users), list(items)
        user, item = np.asarray(user_codes), np.asarray(item_codes)
        order = np.lexsort((np.asarray(times), user))
        _, first = np.unique(user[order] * max(1, len(items)) + item[order], return_index=True)
        order = order[np.sort(first)]
        self._items = item[order]
        self._offsets = np.searchsorted(user[order], np.arange(len(users) + 1))

    def of(self, user: int) -> list[str]:
        """The items of one user, in the order of time."""
        return [self.items[code] for code in self._items[self._offsets[user] : self._offsets[user + 1]]]

    def queries(self, windows: Windows, title: Callable[[str], str]) -> Iterator[PoolQuery]:
        """Each user's windows as queries, named `<user>-<place of the item to be found>`.

        A text names the items newest first, so that one that is cut loses the oldest; `history` is oldest first.

        Args:
            windows: Which.
            title: What a query's text calls an item.

        Raises:
            ConfigError: If there is no query at all.
        """
        if not self.users or np.diff(self._offsets).max() <= windows.fewest:
            problem = f"no user has {windows.fewest + 1} interactions: there is no query."
            raise ConfigError("features.source.windows", problem, cure="set features.source.windows.min_history")
        for code, user in enumerate(self.users):
            items = self.of(code)
            for place, split in windows.of(len(items)):
                history = items[max(0, place - windows.history) : place]
                text = _TEXT.format("; ".join(map(title, reversed(history))))
                yield PoolQuery(
                    f"{user}-{place + 1}", text, {items[place]: 1.0}, split, history=history, origin=f"user {user}"
                )
