"""dolly: instructions and responses written by people."""

import re
from collections.abc import Iterator
from typing import Any

from features.reading.downloads import Download
from features.reading.fields import Record, text_field
from features.reading.published import PublishedData
from features.texts.prompts import instruction
from features.texts.tasks import Task
from registry import SOURCES
from registry.ranges import FilePath, Limit

_REVISION = "bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a"
DOWNLOADS = {
    "all": Download(
        f"https://huggingface.co/datasets/databricks/databricks-dolly-15k/resolve/{_REVISION}/databricks-dolly-15k.jsonl",
        "CC-BY-SA 3.0",
        13_085_339,
        "2df9083338b4abd6bceb5635764dab5d833b393b55759dffb0959b6fcbf794ec",
    )
}
_PARTS = {"all": ["databricks-dolly-15k.jsonl", "*.jsonl", "*.jsonl.gz", "**/*.parquet"]}
_PROMPT = re.compile(
    r".*?### Instruction:\n(?P<instruction>.*?)(?:\n\n### Input:\n(?P<context>.*?))?\n\n### Response:\s*", re.DOTALL
)


@SOURCES.register("dolly")
class Dolly:
    """The first instructions of databricks-dolly-15k, all for training; the reference is the response of a person.

    Read as published, `databricks-dolly-15k.jsonl` (instruction, context, response), and as prompt and answer.

    Args:
        path: The folder or file; null downloads it to `data/downloads`.
        num_train: Number of instructions to use, from the first; null for all.
    """

    def __init__(self, path: FilePath | None = None, num_train: Limit | None = 1000) -> None:
        self.data = PublishedData(path, _PARTS, DOWNLOADS, "a folder with databricks-dolly-15k.jsonl")
        self.num_train = num_train

    def fingerprint(self) -> dict[str, Any]:
        """The file or download, and the options."""
        return {"name": "dolly", **self.data.fingerprint, "num_train": self.num_train}

    def problems(self) -> Iterator[Task]:
        """Yield the instructions in the order of their file; the whole file is read, to report all bad rows."""
        rows = list(self.data.rows("all", _read))
        for number, (query, response, place) in enumerate(rows[: self.num_train]):
            yield Task(f"dolly-{number}", query, instruction(query), response, (), "train", place)


def _read(record: Record, place: str) -> tuple[str, str, str]:
    """The instruction with its context, the response and the place of a row."""
    if "instruction" in record:
        told, context = text_field(record, "instruction"), record.get("context")
        response = text_field(record, "response")
    else:
        prompt, response = text_field(record, "prompt"), text_field(record, "answer")
        found = _PROMPT.fullmatch(prompt)
        told, context = found.group("instruction", "context") if found else (prompt, None)
    return "\n\n".join(part.strip() for part in (told, context) if part and part.strip()), response, place
