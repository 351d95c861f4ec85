"""Store files: written whole or not at all, known by size and hash."""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry import ConfigError

_GO_ON = "make room or choose another path, then run the same command: it goes on from here"


class StoreError(ConfigError):
    """A store that cannot be read or built: the file, what is wrong with it, and what to do."""


def write_file(path: Path, content: bytes | memoryview, cure: str = _GO_ON) -> None:
    """Write all of a file or nothing: a temporary name, flushed to the disk, then renamed.

    Args:
        path: The file; one of that name is replaced.
        content: All of it.
        cure: What to do if the disk refuses.

    Raises:
        StoreError: If the disk refuses, for one because it is full; what was there before stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        problem = f"{len(content):,} bytes could not be written: {error.strerror}."
        raise StoreError(str(path), problem, cure=cure) from error


def make_folder(path: Path, cure: str) -> None:
    """Make a folder and those above it, unless it is there.

    Args:
        path: The folder.
        cure: What to do if that cannot be.

    Raises:
        StoreError: If it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        problem = f"cannot be made or written to: {error.strerror}."
        raise StoreError(str(path.absolute()), problem, cure=cure) from error


def lock_folder(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed or this process ends; None if another process has it.

    The lock is on the folder itself, so that a killed process leaves nothing behind.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino == folder.stat().st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_json(document: Mapping[str, Any]) -> bytes:
    """A document as the bytes that are written: the same for the same content."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def as_signed_json(document: Mapping[str, Any]) -> bytes:
    """The same with the hash of its content in it, which `signed` compares."""
    return as_json({**document, "sha256": _hash_of(document)})


def signed(document: Mapping[str, Any]) -> bool:
    """Whether a document says what it said when it was written; one without a hash is an older version's."""
    return document.get("sha256", _hash_of(document)) == _hash_of(document)


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_size(path: Path, size: int) -> None:
    """Raise if a file is missing or has another size than the manifest says."""
    if not path.is_file():
        raise damaged(path, "missing")
    if (found := path.stat().st_size) != size:
        raise damaged(path, f"{'truncated' if found < size else 'too long'}: {found:,} bytes instead of {size:,}")


def _hash_of(document: Mapping[str, Any]) -> str:
    content = {name: value for name, value in document.items() if name != "sha256"}
    as_read = json.loads(json.dumps(content))  # its keys are texts then, which sort in another order than numbers
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def damaged(path: Path, problem: str) -> StoreError:
    """The error for a file of a store that was finished once and is not what it was."""
    cure = f"delete {path.parent} and build it again, or copy it again from where it is whole"
    return StoreError(str(path), f"{problem}.", cure=cure)
