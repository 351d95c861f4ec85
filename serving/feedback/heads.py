"""Heads: the rankers of the users of one base, read from the database when they are asked for."""

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import torch

from rankers.base import Ranker
from rankers.language_ranker.feature_ranker import FeatureRanker
from serving.feedback.database import FeedbackDatabase, Of
from serving.personal import PersonalRankers
from serving.reranker import Score

MOST = 10_000
"""Of how many users the heads are held in memory; those that were not used for the longest time are read again."""


class Head(NamedTuple):
    """What scores for somebody: the number of a user's version, 0 for the base, and the ranker."""

    version: int
    score: Score


class Heads:
    """The heads of one ranker's users: always the newest ones, whichever server has trained them.

    Args:
        name: The name of the ranker.
        base: The ranker that heads are trained from.
        database: Where they are kept.
        most: How many are held in memory.

    Raises:
        ValueError: If a ranker of this kind cannot have heads.
    """

    def __init__(self, name: str, base: Ranker[Any], database: FeedbackDatabase, most: int = MOST) -> None:
        if not can_be_personal(base):
            raise ValueError(f"{base.name} cannot be trained for single users: only list_ranker and point_ranker can")
        self.name, self._base, self._database, self._most = name, base, database, most
        self._rankers = PersonalRankers(base)
        self._known: OrderedDict[str, tuple[str, int]] = OrderedDict()
        """The id and the number of the version of each user that is in memory."""
        self._lock, self._num_forgotten = threading.Lock(), 0

    @property
    def base_sha256(self) -> str:
        """The sha256 of the base: heads of another one are not used."""
        return self._rankers.base_sha256

    def of(self, user: str) -> Of:
        """Under what a user's head is kept."""
        return Of(self.name, user, self.base_sha256)

    def head(self, user: str) -> Head:
        """A user's newest head; the base if there is none. It waits for the database.

        Raises:
            SQLAlchemyError: If the database does not answer.
        """
        while True:
            num_forgotten = self._num_forgotten
            version = self._database.version(self.of(user))
            with self._lock:
                if version is None:
                    self._forget(user)
                    return self.base
                if version in self._known.get(user, ()):
                    self._known.move_to_end(user)
                    return Head(self._known[user][1], self._rankers.ranker(user))
            if (found := self._database.weights(version)) is None:  # the user was forgotten in this moment
                return self.base
            number, weights = found
            with self._lock:
                if num_forgotten != self._num_forgotten:  # maybe this user, after the weights were read
                    continue
                self._rankers.restore(user, weights)
                self._known[user] = version, number
                self._known.move_to_end(user)
                while len(self._known) > self._most:
                    self._forget(next(iter(self._known)))
                return Head(number, self._rankers.ranker(user))

    @property
    def base(self) -> Head:
        """What scores for those who have no head."""
        return Head(0, self._base)

    def forget(self, user: str) -> None:
        """Drop a user's head from memory, once the database has deleted it."""
        with self._lock:
            self._num_forgotten += 1
            self._forget(user)

    def _forget(self, user: str) -> None:
        if self._known.pop(user, None) is not None:
            self._rankers.remove(user)


def can_be_personal(ranker: Ranker[Any]) -> bool:
    """Whether users can have rankers of their own over this one: it scores vectors, with weights in float32."""
    weights = ranker.state_dict().values()
    return isinstance(ranker, FeatureRanker) and bool(weights) and all(each.dtype == torch.float32 for each in weights)
