r"""math: the competition problems of MATH, drawn evenly from subjects and levels."""

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from annotated_types import Interval, MinLen

from features.reading.downloads import Download
from features.reading.fields import LineError, Record, text_field
from features.reading.published import PublishedData
from features.texts.groups import Split
from features.texts.prompts import mathematics
from features.texts.subsets import draw_key
from features.texts.tasks import Task
from features.verification.answers import last_boxed
from registry import SOURCES
from registry.ranges import FilePath, Limit, Seed

_ARCHIVE = Download(
    "https://people.eecs.berkeley.edu/~hendrycks/MATH.tar",
    "MIT",
    hash="0fbe4fad0df66942db6c221cdcc95b298cc7f4595a2f0f518360cce84e90d9ac",
)
DOWNLOADS = {"train": _ARCHIVE, "test": _ARCHIVE}

_SPLITS: tuple[Split, ...] = ("train", "test")
_PARTS = {
    str(split): [f"{split}.jsonl", f"{split}.jsonl.gz", f"{split}/*/*.json", f"**/{split}-*.parquet"]
    for split in _SPLITS
}
_OPTIONS = ("num_train", "num_test", "subjects", "levels", "seed")
Subject = Literal[
    "Algebra",
    "Counting & Probability",
    "Geometry",
    "Intermediate Algebra",
    "Number Theory",
    "Prealgebra",
    "Precalculus",
]


@SOURCES.register("math")
class Math:
    r"""The problems of MATH; the reference is the content of the last \boxed{} in the published solution.

    Read as published: `MATH.tar`, or its folders `train` and `test`; or `train.jsonl` and `test.jsonl`, or Parquet
    files with the same fields (problem, level, type, solution).

    Args:
        path: The folder or file; null downloads the archive to `data/downloads`.
        num_train: Number of training problems to draw, as evenly as possible from subjects and levels; null for all.
        num_test: Number of test problems to draw, in the same way; null for all.
        subjects: The subjects to use; null for all.
        levels: The levels to use, from 1 to 5; null for all.
        seed: Seed of all random draws.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        num_train: Limit | None = 1000,
        num_test: Limit | None = 1000,
        subjects: Annotated[list[Subject], MinLen(1)] | None = None,
        levels: Annotated[list[Annotated[int, Interval(ge=1, le=5)]], MinLen(1)] | None = None,
        seed: Seed = 0,
    ) -> None:
        self.data = PublishedData(
            path, _PARTS, DOWNLOADS, "a folder with train.jsonl and test.jsonl, or with MATH.tar's"
        )
        self.num_train, self.num_test, self.subjects, self.levels = num_train, num_test, subjects, levels
        self.seed = seed

    def fingerprint(self) -> dict[str, Any]:
        """The files or downloads, and the options."""
        return {"name": "math", **self.data.fingerprint, **{name: getattr(self, name) for name in _OPTIONS}}

    def problems(self) -> Iterator[Task]:
        """Yield the drawn problems, in the order of their files."""
        for split, number in (("train", self.num_train), ("test", self.num_test)):
            if number == 0:
                continue
            rows = self._rows[split]
            chosen = set(range(len(rows))) if number is None else _evenly(rows, number, self.seed)
            for place, row in enumerate(rows):
                if place in chosen:
                    yield Task(row.id, row.problem, mathematics(row.problem), row.answer, (), row.split, row.origin)

    @cached_property
    def _rows(self) -> "dict[str, list[_Row]]":
        return {split: list(filter(self._wanted, self._read(split))) for split in _SPLITS}

    def _read(self, split: Split) -> "Iterator[_Row]":
        def parse(record: Record, place: str) -> _Row:
            problem, answer = text_field(record, "problem"), last_boxed(text_field(record, "solution"))
            if answer is None:
                raise LineError("solution", r"has no \boxed{} with the answer")
            # The same id in every format of the data, so that the same problems are drawn.
            id = f"math-{split}-{hashlib.sha256(problem.encode()).hexdigest()[:12]}"
            return _Row(id, problem, answer, text_field(record, "type"), text_field(record, "level"), split, place)

        return self.data.rows(split, parse)

    def _wanted(self, row: "_Row") -> bool:
        levels = None if self.levels is None else {f"Level {level}" for level in self.levels}
        return (self.subjects is None or row.subject in self.subjects) and (levels is None or row.level in levels)


@dataclass(frozen=True)
class _Row:
    id: str
    problem: str
    answer: str
    subject: str
    level: str
    split: Split
    origin: str


def _evenly(rows: list[_Row], number: int, seed: int) -> set[int]:
    """The indices of `number` rows: one of each subject and level, then a second one of each, and so on.

    Two training problems have `Level ?`, which is not a level.
    """
    cells: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if row.level != "Level ?":
            cells[row.subject, row.level].append(place)
    turns = (
        (turn, draw_key(seed, f"{turn} {cell}"), place)
        for cell, places in cells.items()
        for turn, place in enumerate(sorted(places, key=lambda place: draw_key(seed, rows[place].id)))
    )
    return {place for *_, place in heapq.nsmallest(number, turns)}
