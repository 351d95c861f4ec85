"""Parquet files: some columns of a file, a block of rows at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from registry import ConfigError

_ROWS = 2048
_POINTER = b"version https://git-lfs"


def read_columns(file: Path, columns: Sequence[str]) -> Iterator[Any]:
    """The rows of a file as `pyarrow.RecordBatch`es with these columns.

    Args:
        file: What to read.
        columns: Their names; a field within a column as `passages.is_selected`; none for all there are.

    Raises:
        ConfigError: If it is no Parquet file, is damaged, lacks a column, or pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        problem = "Parquet files are read with pyarrow, which is not installed."
        raise ConfigError(str(file), problem, cure='pip install "pyarrow>=17"') from error
    try:
        with parquet.ParquetFile(file) as opened:
            known = opened.schema_arrow.names
            if missing := [name for name in columns if name.partition(".")[0] not in known]:
                raise ConfigError(str(file), f"has no column {missing[0]!r}.", given=missing[0], known=known)
            yield from opened.iter_batches(batch_size=_ROWS, columns=list(columns) or None)
    except (OSError, pyarrow.ArrowException) as error:
        if file.is_file() and file.read_bytes()[: len(_POINTER)] == _POINTER:
            problem, cure = "is what git-lfs puts in place of the data.", "run `git lfs pull` in that folder"
            raise ConfigError(str(file), problem, cure=cure) from error
        reason = str(error).partition("\n")[0]
        raise ConfigError(str(file), f"cannot be read as Parquet ({reason}).", cure="get the file again") from error
