"""s3rec: predict a user's next item, from a file with one line per user, as S3-Rec publishes its data sets."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from features.reading.fields import LineError
from features.reading.lines import TextFile
from features.sources.recommendation.histories import Histories, Windows
from features.texts.own_files import OwnFile
from features.texts.pools import PoolQuery, PoolText
from registry import SOURCES, ConfigError
from registry.ranges import Count, FilePath

DEFAULT_WINDOWS = Windows(history=1000, min_history=1, max_windows=1)


@SOURCES.register("s3rec")
class S3Rec:
    """Reads `user item item ...` on each line, separated by spaces, items in the order of time (Zhou et al. 2020).

    There are no titles, so the text of an item is its id. The default windows give one training query per user, with
    the whole history: recommenders learn from every position of it.

    Args:
        path: The file, gzipped or not.
        windows: Which parts of a user's items become queries.
        min_interactions: Users and items with fewer are left out, repeatedly: 5 for a 5-core.
    """

    def __init__(self, path: FilePath, windows: Windows = DEFAULT_WINDOWS, min_interactions: Count = 1) -> None:
        self.path, self.windows, self.min_interactions = Path(path), windows, min_interactions
        if not self.path.is_file():
            raise ConfigError("features.source.path", f"{path}: no such file.", cure="set it to a file of user lines")

    def fingerprint(self) -> dict[str, Any]:
        """The file, and the options."""
        options = {"windows": self.windows.settings, "min_interactions": self.min_interactions}
        return {"name": "s3rec", "file": TextFile(self.path).fingerprint, **options}

    @property
    def own_files(self) -> list[OwnFile]:
        """The file, for a quick check before a run."""
        return [TextFile(self.path)]

    def candidates(self) -> Iterator[PoolText]:
        """Yield every item, in the order in which the file first names it."""
        for id in self._histories.items:
            yield PoolText(id, id, origin=f"item {id}")

    def queries(self) -> Iterator[PoolQuery]:
        """Yield one query for each window of each user.

        Raises:
            ConfigError: If no user has enough items.
        """
        yield from self._histories.queries(self.windows, str)

    def notes(self) -> list[str]:
        """What was left out of the file."""
        return self._histories.notes(self.windows)

    @cached_property
    def _histories(self) -> Histories:
        return Histories(self._interactions(), self.min_interactions)

    def _interactions(self) -> Iterator[tuple[str, str, float]]:
        users: set[str] = set()

        def parse(line: str) -> tuple[str, list[str]]:
            user, *items = line.split()
            if not items:
                raise LineError("", f"user {user!r} has no item; expected: user item item ...")
            if user in users:
                raise LineError("", f"found user {user!r} a second time, expected one line per user")
            users.add(user)
            return user, items

        for user, items in TextFile(self.path).parsed(parse):
            for time, item in enumerate(items):
                yield user, item, float(time)
