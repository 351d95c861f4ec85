"""ResultFile: saves each result of long work on disk, so that a run that was stopped repeats no finished work."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ranking.stores.database import Database
from ranking.stores.files import StoreError, make_folder

_TABLES = {
    "results": "(problem TEXT, part TEXT, number INTEGER, value BLOB NOT NULL, sha256 BLOB, "
    "PRIMARY KEY (problem, part, number)) WITHOUT ROWID",
    "settings": "(json TEXT PRIMARY KEY)",
}


class ResultFile:
    """Bytes by problem, part and number, in one SQLite file; its name has the hash of all that they depend on.

    `write` saves results whole or not at all; `read` compares each with its hash. Several processes may use one stage.

    Args:
        folder: The folder of all stages.
        name: The name of the stage, such as `responses`.
        settings: All settings that a result depends on, in addition to its problem; other settings use another file.

    Raises:
        StoreError: If the file cannot be created, or is damaged.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        described = json.dumps(settings, sort_keys=True)
        self.path = folder / f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:12]}.sqlite"
        make_folder(folder, "set features.path to a folder that you may write to, or start elsewhere")
        cure = f"delete {self.path}; the same command computes its content again"
        self._database = Database(self.path, _TABLES, cure=cure)
        self._database.write("INSERT OR IGNORE INTO settings VALUES (?)", [(described,)])

    def numbers(self, problem: str, part: str = "") -> set[int]:
        """Which numbers of a problem's part are there."""
        command = "SELECT number FROM results WHERE problem = ? AND part = ?"
        return {number for (number,) in self._database.read(command, problem, part)}

    def read(self, problem: str, part: str = "", numbers: Iterable[int] | None = None) -> dict[int, bytes]:
        """Results of a problem's part by number, ascending: all results, or only those with these numbers.

        Raises:
            StoreError: If a result has changed since it was written.
        """
        wanted, results = None if numbers is None else set(numbers), {}
        command = "SELECT number, value, sha256 FROM results WHERE problem = ? AND part = ? ORDER BY number"
        for number, value, digest in self._database.read(command, problem, part):
            if wanted is None or number in wanted:
                # An older version wrote no hash.
                if digest not in (None, _hash_of(problem, part, number, value)):
                    what = f"{part or 'result'} {number} of {problem} is not what was written"
                    raise StoreError(str(self.path), f"damaged: {what}.", cure=self._database.cure)
                results[number] = value
        return results

    def write(self, results: Mapping[str, Mapping[str, Mapping[int, bytes]]]) -> None:
        """Save results by problem, part and number; if this fails, none of them is saved."""
        rows = [
            (problem, part, number, value, _hash_of(problem, part, number, value))
            for problem, parts in results.items()
            for part, of in parts.items()
            for number, value in of.items()
        ]
        self._database.write("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> "ResultFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _hash_of(problem: str, part: str, number: int, value: bytes) -> bytes:
    return hashlib.sha256(f"{problem}\0{part}\0{number}\0".encode() + value).digest()
