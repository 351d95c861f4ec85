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
        """The reply to a request, if there is one."""
        with self._lock:
            found = self._database.execute("SELECT reply FROM replies WHERE request = ?", (_hash(request),)).fetchone()
        return found[0] if found else None

    def put(self, request: Mapping[str, Any], reply: str) -> str:
        """Keep a reply, and give the one that counts: the first to the same request.

        Raises:
            ConfigError: If it cannot be written, as on a full disk.
        """
        try:
            with self._lock:
                self._database.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (_hash(request), reply))
        except sqlite3.Error as error:
            cure = "make room on the disk; the same command goes on from there"
            raise ConfigError(str(self.path), f"cannot be written ({error}).", cure=cure) from error
        return self.get(request) or reply

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _hash(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
