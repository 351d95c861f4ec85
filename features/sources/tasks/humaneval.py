"""humaneval: complete Python functions from their signatures and docstrings, so that they pass tests."""

import re
from collections.abc import Iterator
from typing import Any, Literal

from features.reading.downloads import Download
from features.reading.fields import LineError, Record, text_field
from features.reading.published import PublishedData
from features.texts.prompts import coding
from features.texts.tasks import Response, Task
from registry import SOURCES
from registry.ranges import FilePath

DOWNLOADS = {
    "all": Download(
        "https://raw.githubusercontent.com/openai/human-eval/6d43fb980f9fee3c892a914eda09951f772ad10d/data/HumanEval.jsonl.gz",
        "MIT",
        44_877,
        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
    )
}
_PARTS = {"all": ["HumanEval.jsonl.gz", "HumanEval.jsonl", "humaneval.jsonl", "humaneval.jsonl.gz", "**/*.parquet"]}
_CHECKED = re.compile(r"^check\((\w+)\)\s*\Z", re.MULTILINE)


@SOURCES.register("humaneval")
class HumanEval:
    """The tasks of HumanEval; a task's tests run with its own signature and imports.

    Read as published, `HumanEval.jsonl.gz`, or in HumanEval-X's format.

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
        self.data = PublishedData(path, _PARTS, DOWNLOADS, "HumanEval.jsonl.gz, or a folder that has it")
        self.splits, self.solutions = splits, solutions

    def fingerprint(self) -> dict[str, Any]:
        """The file or download, and the options."""
        options = {"splits": self.splits, "solutions": self.solutions}
        return {"name": "humaneval", **self.data.fingerprint, **options}

    def problems(self) -> Iterator[Task]:
        """Yield every task, in the order of the file."""
        yield from self.data.rows("all", self._parse)

    def _parse(self, record: Record, place: str) -> Task:
        prompt, test = text_field(record, "prompt"), text_field(record, "test")
        called = _CHECKED.search(test)
        if "entry_point" in record:
            entry_point = text_field(record, "entry_point")
        elif called:
            entry_point = called[1]
        else:
            raise LineError("entry_point", "missing, and the test does not end in check(...)")
        tests = [test if called else f"{test}\n\ncheck({entry_point})"]
        reference = {"tests": tests, "setup": "", "entry_point": entry_point, "prelude": prompt}
        solution = Response("published", prompt + text_field(record, "canonical_solution"))
        query = prompt.strip()
        return Task(
            f"humaneval-{text_field(record, 'task_id').rpartition('/')[2]}",
            query,
            coding(query),
            reference,
            [solution] if self.solutions else [],
            "test" if self.splits == "published" else None,
            place,
        )
