"""Parquet files: reads some columns of a file, one block of rows at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from features.reading.file_forms import HEAD, foreign_form
from registry import ConfigError

_ROWS = 2048


def read_columns(file: Path, columns: Sequence[str]) -> Iterator[Any]:
    """Yield the rows of a file as `pyarrow.RecordBatch`es with these columns.

    Args:
        file: The file to read.
        columns: The names of the columns, or of fields in columns as in `passages.is_selected`; empty for all columns.

    Raises:
        ConfigError: If the file is not Parquet, is damaged, lacks a column, or pyarrow is not installed.
    """
    with _opened(file) as opened:
        known = opened.schema_arrow.names
        if missing := [name for name in columns if name.partition(".")[0] not in known]:
            raise ConfigError(str(file), f"has no column {missing[0]!r}.", given=missing[0], known=known)
        yield from opened.iter_batches(batch_size=_ROWS, columns=list(columns) or None)


def column_names(file: Path) -> list[str]:
    """The names of a file's columns.

    Raises:
        ConfigError: If the file is not Parquet, is damaged, or pyarrow is not installed.
    """
    with _opened(file) as opened:
        return opened.schema_arrow.names


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        problem = "Parquet files are read with pyarrow, which is not installed."
        raise ConfigError(str(file), problem, cure='pip install "pyarrow>=17"') from error
    try:
        with parquet.ParquetFile(file) as opened:
            yield opened
    except (OSError, pyarrow.ArrowException) as error:
        if file.is_file() and (form := foreign_form(_head(file))) and "Parquet" not in form.name:
            raise ConfigError(str(file), f"it {form.name}, not Parquet.", cure=form.cure) from error
        reason = str(error).partition("\n")[0]
        raise ConfigError(str(file), f"cannot be read as Parquet ({reason}).", cure="get the file again") from error


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(HEAD)
