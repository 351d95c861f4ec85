"""Parquet files are read in blocks, and what is none says so."""

import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from features.reading.parquet import read_columns
from registry import ConfigError


def test_columns_come_in_blocks_and_fields_of_columns_alone(tmp_path: Path) -> None:
    rows = [
        {"id": place, "passages": {"text": [str(place)], "selected": [place % 2]}, "more": 0} for place in range(5000)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    blocks = list(read_columns(tmp_path / "a.parquet", ["id", "passages.selected"]))
    assert max(block.num_rows for block in blocks) < 5000
    found = [row for block in blocks for row in block.to_pylist()]
    assert found == [{"id": place, "passages": {"selected": [place % 2]}} for place in range(5000)]


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"query_id": [1], "text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError) as error:
        list(read_columns(tmp_path / "a.parquet", ["query"]))
    assert "has no column 'query'.\n  Did you mean: query_id\n  Known:        query_id, text" in str(error.value)


def test_another_file_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"text" * 100)
    with pytest.raises(ConfigError, match=r"cannot be read as Parquet \("):
        list(read_columns(tmp_path / "a.parquet", ["query"]))
    with pytest.raises(ConfigError, match=r"cannot be read as Parquet \("):
        list(read_columns(tmp_path / "nowhere.parquet", ["query"]))


def test_a_git_lfs_pointer_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ConfigError, match="git lfs pull"):
        list(read_columns(tmp_path / "a.parquet", ["query"]))


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install"):
        list(read_columns(tmp_path / "a.parquet", ["query"]))
