"""mbpp: write short Python functions that pass tests."""

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from features.reading.downloads import Download
from features.reading.fields import LineError, Record, text_field, unexpected
from features.reading.published import PublishedData
from features.texts.groups import Split
from features.texts.prompts import coding
from features.texts.subsets import drawn
from features.texts.tasks import Response, Task
from registry import SOURCES
from registry.ranges import FilePath, Limit, Seed

_SITE = "https://raw.githubusercontent.com/google-research/google-research/f82046ba5aabbbb427dbfd38a254d26bff08b533"
DOWNLOADS = {
    "all": Download(
        f"{_SITE}/mbpp/mbpp.jsonl",
        "CC-BY 4.0",
        563_743,
        "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f",
    )
}
_PARTS = {"all": ["mbpp.jsonl", "mbpp.jsonl.gz", "sanitized-mbpp.json", "full/*.parquet", "*.parquet"]}
_OPTIONS = ("num_train", "num_test", "num_val", "prompting", "solutions", "seed")


@SOURCES.register("mbpp")
class Mbpp:
    """The tasks of MBPP, split by their numbers as published: 374 train, 500 test, 90 val, and 10 for prompts.

    Read as published: `mbpp.jsonl`, `sanitized-mbpp.json`, or Parquet files with the same fields.

    Args:
        path: The folder or file; null downloads it to `data/downloads`.
        num_train: Number of training tasks to draw; null for all.
        num_test: Number of test tasks to draw; null for all.
        num_val: Number of validation tasks to draw; null for all.
        prompting: Whether to include the ten tasks reserved for prompts, which have no split.
        solutions: Whether to add the published solution to each task as a response.
        seed: Seed of all random draws.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        num_train: Limit | None = None,
        num_test: Limit | None = None,
        num_val: Limit | None = None,
        prompting: bool = False,
        solutions: bool = False,
        seed: Seed = 0,
    ) -> None:
        self.data = PublishedData(path, _PARTS, DOWNLOADS, "a folder with mbpp.jsonl")
        self.num_train, self.num_test, self.num_val = num_train, num_test, num_val
        self.prompting, self.solutions, self.seed = prompting, solutions, seed

    def fingerprint(self) -> dict[str, Any]:
        """The files or downloads, and the options."""
        return {"name": "mbpp", **self.data.fingerprint, **{name: getattr(self, name) for name in _OPTIONS}}

    def problems(self) -> Iterator[Task]:
        """Yield the drawn tasks, in the order of their file."""
        tasks = list(self.data.rows("all", self._parse))
        numbers = {"train": self.num_train, "test": self.num_test, "val": self.num_val}
        numbers[None] = None if self.prompting else 0  # type: ignore[index]
        chosen: set[str] = set()
        for split, number in numbers.items():
            chosen |= drawn((task.query_id for task in tasks if task.split == split), number, self.seed)
        yield from (task for task in tasks if task.query_id in chosen)

    def _parse(self, record: Record, place: str) -> Task:
        number, tests = record.get("task_id"), _texts(record, "test_list")
        if not isinstance(number, int) or isinstance(number, bool):
            raise unexpected("task_id", number, "a whole number")
        if not tests:
            raise LineError("test_list", "has no test")
        query = text_field(record, "prompt" if "prompt" in record else "text").strip()
        code = text_field(record, "code").replace("\r\n", "\n")
        setup = [record.get("test_setup_code") or "", *_texts(record, "test_imports")]
        reference = {
            "tests": tests,
            "setup": "\n".join(filter(None, setup)).replace("\r\n", "\n"),
            "entry_point": tested_function(code, tests[0]),
            "prelude": "",
        }
        responses = [Response("published", code)] if self.solutions else []
        return Task(f"mbpp-{number}", query, coding(query, tests[0]), reference, responses, _split(number), place)


def tested_function(code: str, test: str) -> str | None:
    """The name of the function that a test calls, among those that a solution defines; None if it is not clear."""
    try:
        defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        called = [node.id for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name) and node.id in defined]
    except (SyntaxError, ValueError):
        return None
    return called[0] if called else None


def _split(number: int) -> Split | None:
    """The split of a task: 1 to 10 are for prompts, 11 to 510 test, 511 to 600 validation, all others training."""
    if number <= 10:
        return None
    return "test" if number <= 510 else "val" if number <= 600 else "train"


def _texts(record: Record, key: str) -> Sequence[str]:
    value = record.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise unexpected(key, value, "a list of texts")
    return [each.replace("\r\n", "\n") for each in value]
