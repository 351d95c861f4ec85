"""Database: an SQLite file that several threads and processes may use, and whose errors say what to do."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from ranking.stores.files import StoreError

_PATIENCE = 120  # seconds to wait for another process that is writing


class Database:
    """One file, open; what `write` has written is on the disk, all of it or none. Pickled, it is opened again.

    Args:
        path: The file, in a folder that exists.
        tables: By name, each with its columns in parentheses. Files of older versions may lack a column `sha256`; it
            is added to them.
        cure: What to do with a file that is damaged or something else.
        write_ahead: Whether readers and a writer need not wait for one another; not for network file systems.

    Raises:
        StoreError: If it cannot be opened, read or written, or is damaged or something else.
    """

    def __init__(self, path: Path, tables: Mapping[str, str], cure: str, write_ahead: bool = False) -> None:
        self.path, self.tables, self.cure, self.write_ahead = path, tables, cure, write_ahead
        self._lock = Lock()
        with self._told("opened"):
            self._connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            if write_ahead:
                self._connection.execute("PRAGMA journal_mode = WAL")
            with self._transaction() as connection:
                for table, columns in tables.items():
                    connection.execute(f"CREATE TABLE IF NOT EXISTS {table} {columns}")
                    found = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
                    if "sha256" in columns and "sha256" not in found:
                        connection.execute(f"ALTER TABLE {table} ADD COLUMN sha256 BLOB")

    def read(self, command: str, *values: str | int | bytes | None) -> list[Any]:
        """The rows of a SELECT."""
        with self._told("read"):
            return self._connection.execute(command, values).fetchall()

    def write(self, command: str, rows: Iterable[tuple[str | int | bytes | None, ...]]) -> None:
        """Do a command with the values of each row: with all of them or, if that fails, with none."""
        with self._told("written"), self._transaction() as connection:
            connection.executemany(command, rows)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.tables, self.cure, self.write_ahead)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection as connection:  # commits or, after an error, rolls back
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            problem, cure = f"cannot be {what} ({error}).", "see to it that the file can be read and written"
            if type(error) is sqlite3.DatabaseError:  # the others say that something else is wrong than the file
                problem = f"cannot be {what} ({error}): it is damaged, or something else."
                raise StoreError(str(self.path), problem, cure=self.cure) from error
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                cure = "make room on the disk"
            raise StoreError(str(self.path), problem, cure=f"{cure}; the same command goes on from there") from error
