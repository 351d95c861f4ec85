"""mbpp_plus: 378 functions of MBPP with EvalPlus's inputs, about 35 times as many."""

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
        "https://github.com/evalplus/mbppplus_release/releases/download/v0.2.0/MbppPlus.jsonl.gz",
        "Apache-2.0",
    )
}
_PARTS = {"all": ["MbppPlus*.jsonl.gz", "MbppPlus*.jsonl", "**/*.parquet"]}


@SOURCES.register("mbpp_plus")
class MbppPlus:
    """The tasks of MBPP+; a program is right if it agrees with the published solution on all inputs.

    Read as published, `MbppPlus.jsonl.gz`.

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
        self.data = PublishedData(path, _PARTS, DOWNLOADS, "MbppPlus.jsonl.gz, or a folder that has it")
        self.splits, self.solutions = splits, solutions

    def fingerprint(self) -> dict[str, Any]:
        """The file or download, and the options."""
        options = {"splits": self.splits, "solutions": self.solutions}
        return {"name": "mbpp_plus", **self.data.fingerprint, **options}

    def problems(self) -> Iterator[Task]:
        """Yield every task, in the order of the file."""
        split = "test" if self.splits == "published" else None
        yield from self.data.rows("all", lambda record, place: read_task(record, place, split, self.solutions))
