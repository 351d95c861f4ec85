"""xlam: tasks to solve by calling the offered functions."""

import json
from collections.abc import Iterator
from typing import Any

from features.reading.downloads import Download
from features.reading.fields import LineError, Record, id_field, text_field, unexpected
from features.reading.published import PublishedData
from features.texts.groups import Split
from features.texts.prompts import function_calling
from features.texts.subsets import draw_key
from features.texts.tasks import Task
from features.verification.call_forms.call import parameter_types
from registry import SOURCES
from registry.ranges import Few, FilePath, Limit, Seed

DOWNLOADS = {
    "all": Download(
        "https://huggingface.co/datasets/Salesforce/xlam-function-calling-60k/resolve/main/xlam_function_calling_60k.json",
        "CC-BY 4.0, for research; the hub requires a login and acceptance of its terms",
    )
}
_PARTS = {"all": ["xlam_function_calling_60k.json", "*.json", "*.jsonl", "**/*.parquet"]}
_OPTIONS = ("num_train", "num_test", "min_functions", "seed")


@SOURCES.register("xlam")
class Xlam:
    """The tasks of xLAM's 60,000 function calls that offer more than three functions.

    Read as published, `xlam_function_calling_60k.json`: query, tools and answers; the last two as lists or JSON texts.

    Args:
        path: The folder or file; null for `data/downloads`. Put the file there yourself: the hub requires a login.
        num_train: Number of training tasks to draw.
        num_test: Number of test tasks to draw, all different from the training tasks.
        min_functions: Minimum number of offered functions of a task; other tasks are left out.
        seed: Seed of all random draws.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        num_train: Limit = 1000,
        num_test: Limit = 500,
        min_functions: Few = 4,
        seed: Seed = 0,
    ) -> None:
        self.data = PublishedData(path, _PARTS, DOWNLOADS, "xlam_function_calling_60k.json, or a folder that has it")
        self.num_train, self.num_test, self.min_functions, self.seed = num_train, num_test, min_functions, seed

    def fingerprint(self) -> dict[str, Any]:
        """The file or download, and the options."""
        return {"name": "xlam", **self.data.fingerprint, **{name: getattr(self, name) for name in _OPTIONS}}

    def problems(self) -> Iterator[Task]:
        """Yield the drawn tasks, in the order of their file."""
        rows = list(self.data.rows("all", _read))
        many = (row for row in rows if len(row[2]) >= self.min_functions)
        order = sorted(many, key=lambda row: draw_key(self.seed, row[0]))[: self.num_train + self.num_test]
        splits: dict[str, Split] = {row[0]: "train" if n < self.num_train else "test" for n, row in enumerate(order)}
        for id, query, functions, calls, place in rows:
            if id in splits:
                reference = {"calls": calls, "parameters": parameter_types(functions)}
                yield Task(id, query, function_calling(query, functions), reference, (), splits[id], place)


def _read(record: Record, place: str) -> tuple[str, str, list[Any], list[Any], str]:
    """The id, query, offered functions, expected calls and place of a row."""
    functions, calls = _objects(record, "tools"), _objects(record, "answers")
    for at, call in enumerate(calls):
        if not isinstance(call.get("name"), str) or not isinstance(call.get("arguments"), dict):
            raise unexpected(f"answers[{at}]", call, '{"name": text, "arguments": {...}}')
    return f"xlam-{id_field(record, 'id')}", text_field(record, "query"), functions, calls, place


def _objects(record: Record, key: str) -> list[dict[str, Any]]:
    value = record.get(key)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise LineError(key, f"not valid JSON: {error}") from error
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        raise unexpected(key, value, "a list of objects, or its JSON")
    return value
