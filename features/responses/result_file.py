"""Stage: results of long work, kept one by one on disk, so that nothing is done twice, whatever stops it."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ranking.stores.files import StoreError, make_folder

S = TypeVar("S", bound="Stage")

_PATIENCE = 120  # seconds to wait for another process that is writing


class Stage:
    """Bytes by problem, part and number, in one SQLite file that is named after all that they depend on.

    A result is there, whole, once `write` returns, or not at all, and is compared with its hash when it is read.
    Several processes may work on one stage.

    Args:
        folder: Where stages are kept.
        name: What is kept, such as `responses`.
        settings: All that a result depends on besides its problem; others make another file.

    Raises:
        StoreError: If the file cannot be made, or is damaged.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self._folder, self._described = folder, json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(self._described.encode()).hexdigest()[:12]
        self.path = folder / f"{name}-{digest}.sqlite"
        self._open()

    def numbers(self, problem: str, part: str = "") -> set[int]:
        """Which numbers of a problem's part are there."""
        with self._reported():
            rows = self._connection.execute(
                "SELECT number FROM results WHERE problem = ? AND part = ?", (problem, part)
            )
            return {number for (number,) in rows}

    def read(self, problem: str, part: str = "", numbers: Iterable[int] | None = None) -> dict[int, bytes]:
        """Results of a problem's part by number, ascending; all that are there, or those of these numbers.

        Raises:
            StoreError: If one is not what was written.
        """
        wanted, results = None if numbers is None else set(numbers), {}
        with self._reported():
            rows = self._connection.execute(
                "SELECT number, value, sha256 FROM results WHERE problem = ? AND part = ? ORDER BY number",
                (problem, part),
            )
            for number, value, digest in rows:
                if wanted is None or number in wanted:
                    # An older version wrote no hash.
                    if digest not in (None, _hash_of(problem, part, number, value)):
                        raise sqlite3.DatabaseError(f"{part or 'result'} {number} of {problem} is not what was written")
                    results[number] = value
        return results

    def write(self, results: Mapping[str, Mapping[str, Mapping[int, bytes]]]) -> None:
        """Keep results by problem, part and number, all of them or, if that fails, none."""
        rows = [
            (problem, part, number, value, _hash_of(problem, part, number, value))
            for problem, parts in results.items()
            for part, of in parts.items()
            for number, value in of.items()
        ]
        with self._reported():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", rows)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_connection"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        make_folder(self._folder, "set features.path to a folder that you may write to, or start elsewhere")
        with self._reported():
            self._connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS results (problem TEXT, part TEXT, number INTEGER, value BLOB NOT NULL, "
                "sha256 BLOB, PRIMARY KEY (problem, part, number)) WITHOUT ROWID"
            )
            columns = {row[1] for row in self._connection.execute("PRAGMA table_info(results)")}
            if "sha256" not in columns:
                self._connection.execute("ALTER TABLE results ADD COLUMN sha256 BLOB")
            self._connection.execute("CREATE TABLE IF NOT EXISTS settings (json TEXT PRIMARY KEY)")
            self._connection.execute("INSERT OR IGNORE INTO settings VALUES (?)", (self._described,))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            cure = "make room, or see to it that the folder can be written; the same command goes on"
            raise StoreError(str(self.path), f"cannot be read or written: {error}.", cure=cure) from error
        except sqlite3.DatabaseError as error:
            cure = f"delete {self.path}: what it held will be made again"
            raise StoreError(str(self.path), f"damaged: {error}.", cure=cure) from error


def _hash_of(problem: str, part: str, number: int, value: bytes) -> bytes:
    return hashlib.sha256(f"{problem}\0{part}\0{number}\0".encode() + value).digest()
