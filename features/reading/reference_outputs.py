"""Reference outputs: the outputs that a judge compared candidates with, by query, and how difficult each query is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from features.reading.downloads import Download
from features.reading.fields import LineError, Record, text_field
from features.reading.lines import number
from features.reading.published import PublishedData
from ranking.length_control import ToldLengths
from registry import ConfigError

_SITE = "https://huggingface.co/datasets/tatsu-lab/alpaca_eval/resolve/2edc6fad8be6b14ea7230aabfd08188da6b8b814"
_HASHES = {
    "alpaca_eval_gpt4_baseline.json": "83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4",
    "df_gamed.csv": "97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d",
}
_OUTPUTS, _TOLD = _HASHES
DOWNLOADS = {
    name: Download(
        f"{_SITE}/{name}",
        "CC-BY-NC 4.0",
        hash=known,
        file=f"alpaca_eval/{name}",
        option="callbacks.length_control.path",
    )
    for name, known in _HASHES.items()
}
_PARTS = {_OUTPUTS: [_OUTPUTS, "*.json", "*.jsonl", "*.jsonl.gz", "*.parquet"], _TOLD: [_TOLD]}


class _Told(NamedTuple):
    """A row of `df_gamed.csv`."""

    place: int
    preference: float
    standardised: float
    difficulty: float


@dataclass(frozen=True)
class ReferenceOutputs:
    """What length control needs to know of the queries.

    Args:
        length: The characters of the reference's output, by the text of the query.
        difficulty: The difficulty, by the text of the query; None if it is not known.
        told: The published comparisons that regularize the fit; None where difficulties are not known.
    """

    length: Mapping[str, int]
    difficulty: Mapping[str, float] | None
    told: ToldLengths | None

    @classmethod
    def read(cls, path: str | None) -> "ReferenceOutputs":
        """Read `alpaca_eval_gpt4_baseline.json` (instruction, output) and `df_gamed.csv`, as AlpacaEval publishes them.

        Args:
            path: A folder with both, or with any file of instructions and outputs alone, or that file; None downloads
                both.

        Raises:
            ConfigError: If there are no outputs, or a row is bad.
        """
        expected = f"a folder with {_OUTPUTS} and {_TOLD}, or a file with `instruction` and `output` in each row"
        data = PublishedData(path, _PARTS, DOWNLOADS, expected)
        length: dict[str, int] = {}

        def read(record: Record, place: str) -> None:
            instruction, output = text_field(record, "instruction").strip(), record.get("output")
            if not isinstance(output, str):
                raise LineError("output", "missing; expected text")
            if instruction in length:
                raise LineError("instruction", "occurs in an earlier row too; expected each instruction once")
            length[instruction] = len(output)

        for _ in data.rows(_OUTPUTS, read):
            pass
        rows = list(data.rows(_TOLD, _read_told)) if data.files(_TOLD) else []
        if not rows:
            return cls(length, None, None)
        by_index = {row.place: row.difficulty for row in reversed(rows)}
        if missing := [index for index in range(len(length)) if index not in by_index]:
            problem = f"has no row with the index {missing[0]}, but there are {len(length):,} reference outputs."
            raise ConfigError(str(data.files(_TOLD)[0]), problem, cure="use the two files of one publisher")
        difficulty = {instruction: by_index[index] for index, instruction in enumerate(length)}
        told = ToldLengths(*(np.array([row[place] for row in rows]) for place in (1, 2, 3)))
        return cls(length, difficulty, told)


def _read_told(record: Record, place: str) -> _Told:
    """A comparison of the reference with itself told to be long or short; a preference may be missing."""
    index, standardised, difficulty = (
        number(field, text_field(record, field)) for field in ("index", "std_delta_len", "instruction_difficulty")
    )
    preference = record.get("preference") or "nan"
    known = preference.strip().lower() not in ("", "nan")
    return _Told(int(index), number("preference", preference) if known else math.nan, standardised, difficulty)
