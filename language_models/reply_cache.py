"""ReplyCache: what a server has replied to each request, on disk, so that no request is made twice."""

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
    """A file of replies by the hash of their requests; what was put in is there after a kill.

    Several threads, and several processes, may use one file. A reply that is no longer what was written, by its hash,
    is as good as none; replies of older versions have no hash.

    Args:
        path: The file; its folder is made.

    Raises:
        ConfigError: If it cannot be opened, or is something else.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent, cure := "remove it, or name another")
        columns = "(request TEXT PRIMARY KEY, reply TEXT NOT NULL, sha256 BLOB)"
        self._database, self._warned = Database(path, {"replies": columns}, cure, write_ahead=True), False

    def get(self, request: Mapping[str, Any]) -> str | None:
        """The reply to a request, if there is one.

        Raises:
            ConfigError: If it cannot be read.
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
            line = f"Warning: replies in {self._database.path} are damaged; they are asked for again."
            Console(stderr=True).print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)
        self._database.write("DELETE FROM replies WHERE request = ? AND sha256 IS ?", [(key, digest)])
        return None

    def put(self, request: Mapping[str, Any], reply: str) -> str:
        """Keep a reply, and give the one that counts: the first to the same request.

        Raises:
            ConfigError: If it cannot be written, as on a full disk.
        """
        key = _hash(request)
        command = "INSERT OR IGNORE INTO replies (request, reply, sha256) VALUES (?, ?, ?)"
        self._database.write(command, [(key, reply, _digest(key, reply.encode()))])
        return self.get(request) or reply

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _hash(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _digest(key: str, reply: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + reply).digest()
