"""Store files: written whole or not at all, and checked by size and hash."""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry import ConfigError

_GO_ON = "make room or choose another path, then run the same command to continue"


class StoreError(ConfigError):
    """A store cannot be read or built: names the file, what is wrong with it, and what to do."""


def write_file(path: Path, content: bytes | memoryview, cure: str = _GO_ON) -> None:
    """Write a file whole or not at all: write it under a temporary name, flush it to the disk, then rename it.

    Args:
        path: The file; an existing file is replaced.
        content: The content of the file.
        cure: What the user can do if writing fails.

    Raises:
        StoreError: If writing fails, for example because the disk is full; an existing file is kept.
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
    """Create a folder and its parents unless it exists.

    Args:
        path: The folder.
        cure: What the user can do if this fails.

    Raises:
        StoreError: If the folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        problem = f"cannot be created or written to: {error.strerror}."
        raise StoreError(str(path.absolute()), problem, cure=cure) from error


def lock_folder(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed or this process ends; None if another process holds it.

    The lock is on the folder itself, so a killed process leaves no lock file behind.
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
    """A document as bytes; equal documents give equal bytes."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def as_signed_json(document: Mapping[str, Any]) -> bytes:
    """A document as bytes, with the hash of its content added, which `signed` checks."""
    return as_json({**document, "sha256": _hash_of(document)})


def signed(document: Mapping[str, Any]) -> bool:
    """Whether a document is unchanged since it was written; documents from older versions have no hash and pass."""
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
    as_read = json.loads(json.dumps(content))  # turns all keys into texts, which sort in another order than numbers
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def damaged(path: Path, problem: str) -> StoreError:
    """The error for a damaged file of a finished store."""
    cure = f"delete {path.parent} and build it again, or copy it again from an undamaged copy"
    return StoreError(str(path), f"{problem}.", cure=cure)
