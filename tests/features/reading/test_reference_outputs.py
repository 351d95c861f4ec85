"""Reference outputs are read as AlpacaEval publishes them; the files are of its form, made here."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.reading import downloads
from features.reading.reference_outputs import DOWNLOADS, ReferenceOutputs
from registry import ConfigError

HEADER = "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline"


def outputs(folder: Path, number: int = 3) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "dataset": "koala",
            "instruction": f"Tell {place}. ",
            "output": "o" * (place + 2),
            "generator": "gpt4_1106_preview",
        }
        for place in range(number)
    ]
    (folder / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(rows, indent=1))
    return folder


def gamed(folder: Path, *rows: str) -> Path:
    (folder / "df_gamed.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def test_lengths_difficulties_and_published_comparisons_belong_to_instructions(tmp_path: Path) -> None:
    rows = ["long,0.25,0,-1.5,0.5,False", "long,,1,0.125,-2,False", "long,nan,2,3,1.75,False"]
    found = ReferenceOutputs.read(str(gamed(outputs(tmp_path), *rows, "short,1.0,0,2.5,0.5,False")))
    assert found.length == {"Tell 0.": 2, "Tell 1.": 3, "Tell 2.": 4}
    assert found.difficulty == {"Tell 0.": 0.5, "Tell 1.": -2, "Tell 2.": 1.75}
    assert found.told is not None
    np.testing.assert_equal(found.told.preference, [0.25, math.nan, math.nan, 1])
    assert found.told.standardised.tolist() == [-1.5, 0.125, 3, 2.5]
    assert found.told.difficulty.tolist() == [0.5, -2, 1.75, 0.5]


def test_outputs_alone_have_no_difficulties(tmp_path: Path) -> None:
    file = outputs(tmp_path) / "alpaca_eval_gpt4_baseline.json"
    own = tmp_path / "own" / "mine.jsonl"
    own.parent.mkdir()
    own.write_text("".join(json.dumps(row) + "\n" for row in json.loads(file.read_text())))
    for path in (file, tmp_path, own, own.parent):
        found = ReferenceOutputs.read(str(path))
        assert len(found.length) == 3 and found.difficulty is None and found.told is None


def test_an_instruction_without_difficulty_is_an_error(tmp_path: Path) -> None:
    folder = gamed(outputs(tmp_path), "long,0.25,0,-1.5,0.5,False", "long,0.5,2,1,1,False")
    with pytest.raises(ConfigError, match=r"df_gamed.csv: has no row with the index 1, but there are 3 reference"):
        ReferenceOutputs.read(str(folder))


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    row = {"instruction": "Tell.", "output": "o"}
    file = tmp_path / "o.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in (row, {**row, "output": None}, row)))
    with pytest.raises(ConfigError) as raised:
        ReferenceOutputs.read(str(file))
    assert "line 2: output: missing; expected text" in str(raised.value)
    assert "line 3: instruction: occurs in an earlier row too" in str(raised.value)
    folder = gamed(outputs(tmp_path), "long,much,0,-1.5,0.5,False")
    with pytest.raises(ConfigError, match="preference: found 'much', expected a number"):
        ReferenceOutputs.read(str(folder))


def test_without_path_the_published_files_are_downloaded_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "FOLDER", tmp_path)
    for download in DOWNLOADS.values():
        assert download.url.startswith("https://huggingface.co/datasets/tatsu-lab/alpaca_eval/resolve/")
        assert download.hash is not None and len(download.hash) == 64 and download.terms
    folder = tmp_path / "alpaca_eval"
    folder.mkdir()
    outputs(folder)
    with pytest.raises(ConfigError, match=r"its sha256 is .* instead of 83db546b") as raised:
        ReferenceOutputs.read(None)
    assert "callbacks.length_control.path" in str(raised.value)
    with pytest.raises(ConfigError, match=r"set callbacks.length_control.path to a folder with"):
        ReferenceOutputs.read(str(tmp_path / "nowhere"))
