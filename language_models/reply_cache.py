"""ReplyCache: what a server has replied to each request, on disk, so that no request is made twice."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from registry import ConfigError


class ReplyCache:
    """A file of replies by the hash of their requests; what was put in is there after a kill.

    Several threads, and several processes, may use one file. A reply that is no longer what was written, by its hash,
    is as good as none; replies of older versions have no hash.

    Args:
        path: The file; its folder is made.

    Raises:
        ConfigError: If it cannot be opened, or is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock, self._warned = path, threading.Lock(), False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(str(path), f"cannot be opened ({error}).", cure="remove it, or name another") from error

    def get(self, request: Mapping[str, Any]) -> str | None:
        """The reply to a request, if there is one.

        Raises:
            ConfigError: If it cannot be read.
        """
        key = _hash(request)
        found = self._execute("read", "SELECT CAST(reply AS BLOB), sha256 FROM replies WHERE request = ?", key)
        if not found:
            return None
        reply, digest = found[0]
        with suppress(UnicodeDecodeError):
            if digest in (None, _digest(key, reply)):
                return reply.decode()
        if not self._warned:
            self._warned = True
            line = f"Warning: replies in {self.path} are damaged; they are asked for again."
            Console(stderr=True).print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)
        self._execute("written", "DELETE FROM replies WHERE request = ? AND sha256 IS ?", key, digest)
        return None

    def put(self, request: Mapping[str, Any], reply: str) -> str:
        """Keep a reply, and give the one that counts: the first to the same request.

        Raises:
            ConfigError: If it cannot be written, as on a full disk.
        """
        key = _hash(request)
        command = "INSERT OR IGNORE INTO replies (request, reply, sha256) VALUES (?, ?, ?)"
        self._execute("written", command, key, reply, _digest(key, reply.encode()))
        return self.get(request) or reply

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _prepare(self) -> None:
        """Make the table, and the column that files of older versions lack."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS replies (request TEXT PRIMARY KEY, reply TEXT NOT NULL, sha256 BLOB)"
        )
        if "sha256" not in {row[1] for row in self._database.execute("PRAGMA table_info(replies)")}:
            self._database.execute("ALTER TABLE replies ADD COLUMN sha256 BLOB")
        self._database.execute("COMMIT")

    def _execute(self, what: str, command: str, *values: str | bytes | None) -> list[Any]:
        try:
            with self._lock:
                return self._database.execute(command, values).fetchall()
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            cure = f"{'make room on the disk' if full else 'see to the file'}; the same command goes on from there"
            raise ConfigError(str(self.path), f"cannot be {what} ({error}).", cure=cure) from error


def _hash(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _digest(key: str, reply: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + reply).digest()
