"""gsm8k: grade-school math problems whose answer is a number."""

from collections.abc import Iterator
from typing import Any

from features.reading.downloads import Download
from features.reading.fields import LineError, Record, text_field
from features.reading.published import PublishedData
from features.texts.groups import Split
from features.texts.prompts import mathematics
from features.texts.subsets import drawn
from features.texts.tasks import Task
from registry import SOURCES
from registry.ranges import FilePath, Limit, Seed

_SITE = "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c"
DOWNLOADS = {
    "train": Download(
        f"{_SITE}/grade_school_math/data/train.jsonl",
        "MIT",
        4_166_206,
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        "gsm8k/train.jsonl",
    ),
    "test": Download(
        f"{_SITE}/grade_school_math/data/test.jsonl",
        "MIT",
        749_738,
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        "gsm8k/test.jsonl",
    ),
}
_PARTS = {split: [f"{split}.jsonl", f"{split}.jsonl.gz", f"**/{split}-*.parquet"] for split in ("train", "test")}
_OPTIONS = ("num_train", "num_test", "seed")


@SOURCES.register("gsm8k")
class Gsm8k:
    """The problems of GSM8K; the reference is the number after #### in the published solution.

    Read as published: `train.jsonl` and `test.jsonl`, or Parquet files with the same fields (question, answer).

    Args:
        path: The folder or file; null downloads the files to `data/downloads`.
        num_train: Number of training problems to draw; null for all.
        num_test: Number of test problems to draw; null for all.
        seed: Seed of all random draws.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        num_train: Limit | None = None,
        num_test: Limit | None = None,
        seed: Seed = 0,
    ) -> None:
        self.data = PublishedData(path, _PARTS, DOWNLOADS, "a folder with train.jsonl and test.jsonl")
        self.num_train, self.num_test, self.seed = num_train, num_test, seed

    def fingerprint(self) -> dict[str, Any]:
        """The files or downloads, and the options."""
        return {"name": "gsm8k", **self.data.fingerprint, **{name: getattr(self, name) for name in _OPTIONS}}

    def problems(self) -> Iterator[Task]:
        """Yield the drawn problems, in the order of their files."""
        numbers: dict[Split, int | None] = {"train": self.num_train, "test": self.num_test}
        for split, number in numbers.items():
            rows = [] if number == 0 else list(self.data.rows(split, _parse))
            chosen = drawn((f"gsm8k-{split}-{place}" for place in range(len(rows))), number, self.seed)
            for place, (question, answer, origin) in enumerate(rows):
                if (id := f"gsm8k-{split}-{place}") in chosen:
                    yield Task(id, question, mathematics(question), answer, (), split, origin)


def _parse(record: Record, place: str) -> tuple[str, str, str]:
    """The question, answer and place of a row."""
    solution = text_field(record, "answer")
    _, marker, answer = solution.rpartition("####")
    if not marker or not answer.strip():
        raise LineError("answer", "has no #### with the answer after it")
    return text_field(record, "question"), answer.strip().replace(",", ""), place
