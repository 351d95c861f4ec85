"""Histories: turns users' interactions, in the order of time, into queries for the next interaction."""

import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from features.texts.groups import Split
from features.texts.pools import PoolQuery
from features.texts.subsets import draw_key
from registry import ConfigError
from registry.ranges import Count, Few

# Rankers truncate texts at the end, so the oldest items come last. These words are rare in titles, because BM25 would
# match them.
_TEXT = "Newest to oldest: {}"


@dataclass(frozen=True)
class Windows:
    """Selects the interactions of a user that become queries.

    Args:
        by: `time` is leave-one-out, as usual in sequential recommendation: the test predicts a user's last interaction,
            validation the one before it, and training earlier ones. With `user`, each user gives one query, for the
            interaction after the first `history` ones, and users are split by `datamodule.split_shares`.
        history: Number of interactions in a query, those just before the one to predict.
        min_history: The smallest number of interactions in a query, if the user has no more; null for `history`.
        stride: Number of interactions from one training query of a user to the next.
        max_windows: Maximum number of training queries of a user, the latest ones; null for all.
        negatives: Number of items without an interaction of the user, drawn at random, the same in every run. A query's
            own list has these and the right item, to be ranked with `datamodule.candidates=own`. Null for no lists.
    """

    history: Few = 20
    min_history: Few | None = None
    stride: Count = 1
    max_windows: Annotated[int, Interval(ge=0, le=1_000_000)] | None = None
    by: Literal["time", "user"] = "time"
    negatives: Few | None = None

    def __post_init__(self) -> None:
        """Refuse a `min_history` above `history`."""
        if self.fewest > self.history:
            raise ValueError(f"min_history ({self.min_history}) must be from 1 to history ({self.history})")

    @property
    def fewest(self) -> int:
        """The smallest number of interactions in a query."""
        return self.history if self.min_history is None else self.min_history

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that the queries depend on, including the words of their texts."""
        named = {**vars(self), "min_history": self.fewest, "text": _TEXT}
        # Pools that were built before these options existed stay valid.
        return {name: each for name, each in named.items() if (name, each) not in (("by", "time"), ("negatives", None))}

    def of(self, num_interactions: int) -> list[tuple[int, Split | None]]:
        """The indices of the interactions to predict, and their splits, in the order of time.

        >>> Windows(history=2).of(5)
        [(2, 'train'), (3, 'val'), (4, 'test')]
        """
        last = num_interactions - 1
        if self.by == "user":
            return [(min(last, self.history), None)] if last >= self.fewest else []
        train = itertools.islice(range(last - 2, self.fewest - 1, -self.stride), self.max_windows)
        found: list[tuple[int, Split | None]] = [(place, "train") for place in sorted(train)]
        held_out: list[tuple[int, Split | None]] = [(last - 1, "val"), (last, "test")]
        return found + [(place, split) for place, split in held_out if place >= self.fewest]


class Histories:
    """The interactions of all users, at a few bytes per interaction.

    Args:
        interactions: User, item and time of each interaction. Interactions at equal times keep their order. If a user
            has several interactions with an item, only the first counts.
        min_interactions: Users and items with fewer are left out, repeatedly, until each has so many: a k-core.
    """

    def __init__(self, interactions: Iterable[tuple[str, str, float]], min_interactions: int = 1) -> None:
        users: dict[str, int] = {}
        items: dict[str, int] = {}
        user_codes, item_codes, times = array("q"), array("q"), array("d")
        for user, item, time in interactions:
            user_codes.append(users.setdefault(user, len(users)))
            item_codes.append(items.setdefault(item, len(items)))
            times.append(time)
        user, item, time = np.asarray(user_codes), np.asarray(item_codes), np.asarray(times)
        order = np.lexsort((time, user))
        _, first = np.unique(user[order] * max(1, len(items)) + item[order], return_index=True)
        distinct = order[np.sort(first)]
        kept = distinct[_core(user[distinct], item[distinct], min_interactions)]
        left_users, user = np.unique(user[kept], return_inverse=True)
        left_items, self._items = np.unique(item[kept], return_inverse=True)
        self.users, self.items = _chosen(list(users), left_users), _chosen(list(items), left_items)
        self._offsets = np.searchsorted(user, np.arange(len(self.users) + 1))
        at_equal_times = (user[1:] == user[:-1]) & (time[kept][1:] == time[kept][:-1])
        self._counts = {
            "interactions": len(order),
            "repeated": len(order) - len(distinct),
            "rare": len(distinct) - len(kept),
            "equal_times": int(at_equal_times.sum()),
        }

    def of(self, user: int) -> list[str]:
        """The items of one user, in the order of time."""
        return [self.items[code] for code in self._items[self._offsets[user] : self._offsets[user + 1]]]

    def notes(self, windows: Windows) -> list[str]:
        """What was left out or had to be assumed, one line each.

        Args:
            windows: The selection of windows.
        """
        sizes, counts = np.diff(self._offsets), self._counts
        kept = "interactions are at the time of the one before them: they keep the order of the file"
        lines = {
            f"of {counts['interactions']:,} interactions repeat an earlier one: only the first counts": "repeated",
            "interactions are left out, of users or items with fewer than min_interactions": "rare",
            kept: "equal_times",
        }
        found = [f"{counts[name]:,} {line}." for line, name in lines.items() if counts[name]]
        if short := int((sizes <= windows.fewest).sum()):
            found.append(
                f"{short:,} of {len(sizes):,} users have fewer than {windows.fewest + 1} interactions: no query."
            )
        return found

    def queries(self, windows: Windows, title: Callable[[str], str]) -> Iterator[PoolQuery]:
        """Yield each user's windows as queries, with the id `<user>-<position of the item to predict>`.

        A text lists the items newest first, so that truncation removes the oldest; `history` is oldest first.

        Args:
            windows: The selection of windows.
            title: Returns the title of an item for a query's text.

        Raises:
            ConfigError: If there are no queries, or too few items for their lists.
        """
        if not self.users or np.diff(self._offsets).max() <= windows.fewest:
            problem = f"no user has {windows.fewest + 1} interactions, so there are no queries."
            cure = "set features.source.windows.min_history" if windows.fewest > 1 else "other data"
            raise ConfigError("features.source.windows", problem, cure=cure)
        for code, user in enumerate(self.users):
            items = self.of(code)
            for place, split in windows.of(len(items)):
                history = items[max(0, place - windows.history) : place]
                text = _TEXT.format("; ".join(map(title, reversed(history))))
                yield PoolQuery(
                    f"{user}-{place + 1}",
                    text,
                    {items[place]: 1.0},
                    split,
                    history=history,
                    candidates=self._list(code, place, windows.negatives),
                    user=user,
                    origin=f"user {user}",
                )

    def _list(self, user: int, place: int, negatives: int | None) -> list[str] | None:
        """The right item and some that the user has no interaction with, in the order of the file."""
        if negatives is None:
            return None
        own = set(self._items[self._offsets[user] : self._offsets[user + 1]].tolist())
        if (left := len(self.items) - len(own)) < negatives:
            problem = f"user {self.users[user]} has no interaction with {left:,} items."
            cure = f"{left:,} or less" if left else "null"
            raise ConfigError("features.source.windows.negatives", problem, given=negatives, cure=cure)
        draw = np.random.default_rng(list(draw_key("negatives", f"{self.users[user]} {place}")))
        found: set[int] = set()
        while len(found) < negatives:
            found |= set(draw.integers(len(self.items), size=negatives - len(found)).tolist()) - own
        right = int(self._items[self._offsets[user] + place])
        return [self.items[code] for code in sorted({right, *found})]


def _core(user: NDArray[np.int64], item: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    """The places of interactions whose users and items have `least` interactions among these."""
    kept = np.arange(len(user))
    while len(kept):
        enough = [np.bincount(codes[kept])[codes[kept]] >= least for codes in (user, item)]
        if (both := enough[0] & enough[1]).all():
            break
        kept = kept[both]
    return kept


def _chosen(names: list[str], places: NDArray[np.int64]) -> list[str]:
    return [names[place] for place in places.tolist()]
