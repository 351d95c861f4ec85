"""humaneval_plus: HumanEval's functions with EvalPlus's inputs, about 80 times as many."""

from collections.abc import Iterator
from typing import Any, Literal

from features.reading.downloads import Download
from features.reading.evalplus import read_task
from features.reading.published import PublishedData
from features.texts.tasks import Task
from registry import SOURCES
from registry.ranges import FilePath

DOWNLOADS = {
    "all": Download(
        "https://github.com/evalplus/humanevalplus_release/releases/download/v0.1.10/HumanEvalPlus.jsonl.gz",
        "Apache-2.0",
    )
}
_PARTS = {"all": ["HumanEvalPlus*.jsonl.gz", "HumanEvalPlus*.jsonl", "**/*.parquet"]}


@SOURCES.register("humaneval_plus")
class HumanEvalPlus:
    """The tasks of HumanEval+; a program is right if it agrees with the published solution on all inputs.

    Read as published, `HumanEvalPlus.jsonl.gz`.

    Args:
        path: The folder or file; null downloads it to `data/downloads`.
        splits: `published` uses all tasks as the test; `drawn` splits them by the datamodule's shares.
        solutions: Whether to add the published solution to each task as a response.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        splits: Literal["published", "drawn"] = "published",
        solutions: bool = False,
    ) -> None:
        self.data = PublishedData(path, _PARTS, DOWNLOADS, "HumanEvalPlus.jsonl.gz, or a folder that has it")
        self.splits, self.solutions = splits, solutions

    def fingerprint(self) -> dict[str, Any]:
        """The file or download, and the options."""
        options = {"splits": self.splits, "solutions": self.solutions}
        return {"name": "humaneval_plus", **self.data.fingerprint, **options}

    def problems(self) -> Iterator[Task]:
        """Yield every task, in the order of the file."""
        split = "test" if self.splits == "published" else None
        yield from self.data.rows("all", lambda record, place: read_task(record, place, split, self.solutions))
