"""ReplyCache: what a server has replied to each request, on disk, so that no request is made twice."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry import ConfigError


class ReplyCache:
    """A file of replies by the hash of their requests; what was put in is there after a kill.

    Several threads, and several processes, may use one file.

    Args:
        path: The file; its folder is made.

    Raises:
        ConfigError: If it cannot be opened, or is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS replies (request TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(str(path), f"cannot be opened ({error}).", cure="remove it, or name another") from error

    def get(self, request: Mapping[str, Any]) -> str | None:
        """The reply to a request, if there is one.

        Raises:
            ConfigError: If it cannot be read.
        """
        found = self._execute("read", "SELECT reply FROM replies WHERE request = ?", _hash(request))
        return found[0][0] if found else None

    def put(self, request: Mapping[str, Any], reply: str) -> str:
        """Keep a reply, and give the one that counts: the first to the same request.

        Raises:
            ConfigError: If it cannot be written, as on a full disk.
        """
        self._execute("written", "INSERT OR IGNORE INTO replies VALUES (?, ?)", _hash(request), reply)
        return self.get(request) or reply

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _execute(self, what: str, command: str, *values: str) -> list[Any]:
        try:
            with self._lock:
                return self._database.execute(command, values).fetchall()
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            cure = f"{'make room on the disk' if full else 'see to the file'}; the same command goes on from there"
            raise ConfigError(str(self.path), f"cannot be {what} ({error}).", cure=cure) from error


def _hash(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
