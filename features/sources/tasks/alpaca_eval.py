"""alpaca_eval: the instructions of AlpacaEval."""

from collections.abc import Iterator
from typing import Any, Literal

from features.reading.downloads import Download
from features.reading.fields import Record, text_field
from features.reading.published import PublishedData
from features.texts.prompts import instruction
from features.texts.tasks import Task
from registry import SOURCES
from registry.ranges import FilePath, Limit

DOWNLOADS = {
    "all": Download(
        "https://huggingface.co/datasets/tatsu-lab/alpaca_eval/resolve/main/alpaca_eval.json", "CC-BY-NC 4.0"
    )
}
_PARTS = {"all": ["alpaca_eval.json", "alpaca_eval*.json", "*.jsonl", "**/*.parquet"]}


@SOURCES.register("alpaca_eval")
class AlpacaEval:
    """AlpacaEval's 805 instructions; the reference is the published output.

    Read as published, `alpaca_eval.json` (instruction, output).

    Args:
        path: The folder or file; null downloads it to `data/downloads`.
        num_test: Number of instructions to use, from the first; null for all.
        splits: `published` uses all instructions as the test; `drawn` splits them by the datamodule's shares.
    """

    def __init__(
        self,
        path: FilePath | None = None,
        num_test: Limit | None = None,
        splits: Literal["published", "drawn"] = "published",
    ) -> None:
        self.data = PublishedData(path, _PARTS, DOWNLOADS, "alpaca_eval.json, or a folder that has it")
        self.num_test, self.splits = num_test, splits

    def fingerprint(self) -> dict[str, Any]:
        """The file or download, and the options."""
        return {"name": "alpaca_eval", **self.data.fingerprint, "num_test": self.num_test, "splits": self.splits}

    def problems(self) -> Iterator[Task]:
        """Yield the instructions, in the order of their file."""
        split = "test" if self.splits == "published" else None
        for number, (query, output, place) in enumerate(list(self.data.rows("all", _read))[: self.num_test]):
            yield Task(f"alpaca_eval-{number}", query, instruction(query), output, (), split, place)


def _read(record: Record, place: str) -> tuple[str, str | None, str]:
    """Instruction, output and place of a row."""
    output = record.get("output")
    return text_field(record, "instruction").strip(), output if isinstance(output, str) else None, place
