"""ReplyCache: a server's replies to requests, on disk, so that no request is sent twice."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from ranking.stores.database import Database
from ranking.stores.files import make_folder


class ReplyCache:
    """A file of replies, keyed by the hash of their requests; written replies survive a kill of the process.

    Several threads and processes may share a file. A reply that does not match its stored hash counts as missing;
    replies from older versions have no hash.

    Args:
        path: The file; missing folders are created.

    Raises:
        ConfigError: If the file cannot be opened or is not a reply cache.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent, cure := "remove it, or name another")
        columns = "(request TEXT PRIMARY KEY, reply TEXT NOT NULL, sha256 BLOB)"
        self._database, self._warned = Database(path, {"replies": columns}, cure, write_ahead=True), False

    def get(self, request: Mapping[str, Any]) -> str | None:
        """The reply to a request; None if it is not cached.

        Raises:
            ConfigError: If the file cannot be read.
        """
        key = _hash(request)
        found = self._database.read("SELECT CAST(reply AS BLOB), sha256 FROM replies WHERE request = ?", key)
        if not found:
            return None
        reply, digest = found[0]
        with suppress(UnicodeDecodeError):
            if digest in (None, _digest(key, reply)):
                return reply.decode()
        if not self._warned:
            self._warned = True
            line = f"Warning: replies in {self._database.path} are damaged; these requests are sent again."
            Console(stderr=True).print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)
        self._database.write("DELETE FROM replies WHERE request = ? AND sha256 IS ?", [(key, digest)])
        return None

    def put(self, request: Mapping[str, Any], reply: str) -> str:
        """Store a reply, and return the stored one: the first reply to a request is kept.

        Raises:
            ConfigError: If the file cannot be written, for example because the disk is full.
        """
        key = _hash(request)
        command = "INSERT OR IGNORE INTO replies (request, reply, sha256) VALUES (?, ?, ?)"
        self._database.write(command, [(key, reply, _digest(key, reply.encode()))])
        return self.get(request) or reply

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _hash(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _digest(key: str, reply: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + reply).digest()
