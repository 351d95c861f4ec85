"""Downloads: files of published data sets, fetched from where their owners keep them, with size and hash shown.

Pooch (1.9) was tried: it starts a broken download from the beginning, replaces a file that the user put there, and
processes at once fetch the same file. huggingface_hub (2.4) joins parts of different files, for it does not ask whether
the file has changed.
"""

import errno
import fcntl
import hashlib
import http.client
import io
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ranking.stores.files import write_file
from registry import ConfigError

FOLDER = Path("data/downloads")

_ATTEMPTS = 3
_TIMEOUT = 60
_BLOCK = 1 << 20
_BROKEN = (urllib.error.URLError, http.client.HTTPException, OSError)


@dataclass(frozen=True)
class Download:
    """A file on the web.

    Args:
        url: Where its owners keep it.
        terms: On what terms, told before it is fetched.
        size: In bytes, if it is known.
        hash: SHA-256 or MD5, if it is known.
        file: Its name below `data/downloads`; by default that of the address.
        option: The option that names the user's own copy.
    """

    url: str
    terms: str
    size: int | None = None
    hash: str | None = None
    file: str = ""
    option: str = "features.source.path"

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return FOLDER / (self.file or Path(urlsplit(self.url).path).name)

    @property
    def algorithm(self) -> str:
        """Which hash it is compared by."""
        return "md5" if self.hash is not None and len(self.hash) == 32 else "sha256"

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What tells it from other files, known before it is fetched."""
        return {"url": self.url, "hash": self.hash}


def fetch(download: Download, console: Console | None = None) -> Path:
    """The file, fetched unless it is there; a broken download goes on where it stopped, one process at a time.

    Args:
        download: Which.
        console: Where to tell of it; stderr by default.

    Raises:
        ConfigError: If it cannot be had, or is not the one expected; it says what to put where.
    """
    path, console = download.path, console or Console(stderr=True)
    if not path.is_file():
        with _claimed(download) as part:
            # Another process may have finished it while this one waited for its turn.
            if not path.is_file():
                size = f"{download.size:,} bytes" if download.size else "of unknown size"
                _tell(console, f"Downloading {download.url} ({size}) to {path}. Terms: {download.terms}.")
                _download(download, part, console)
                found = _checked(download, part)
                part.with_name(f"{part.name}.version").unlink(missing_ok=True)
                part.replace(path)
                compared = "as expected" if download.hash else "there is none to compare it with"
                _tell(console, f"{path}: {path.stat().st_size:,} bytes, {download.algorithm} {found} ({compared}).")
                return path
    _checked(download, path)
    return path


def fetch_all(downloads: Sequence[Download]) -> Path:
    """The folder of files that belong together, all fetched."""
    paths = [fetch(download) for download in downloads]
    return paths[0].parent


def _download(download: Download, part: Path, console: Console) -> None:
    """All of the file, in as many attempts as there is progress for, and a few more."""
    attempts = 0
    while True:
        before = part.stat().st_size
        try:
            if _continue(download, part, console):
                return
            reason = "the connection was closed early"
        except _BROKEN as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise ConfigError(str(part), f"cannot be written ({reason}).", cure="make room on the disk") from error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
                reason = f"HTTP status {error.code}, {error.reason}"
                if error.code < 500:
                    raise _unavailable(download, reason) from error
        attempts = 0 if part.stat().st_size > before else attempts + 1
        if attempts >= _ATTEMPTS:
            raise _unavailable(download, reason)


def _continue(download: Download, part: Path, console: Console) -> bool:
    """Append what one request gives; whether that was the rest of the file."""
    version = part.with_name(f"{part.name}.version")
    known = version.read_text() if version.is_file() else ""
    start = part.stat().st_size if known else 0
    headers = {"User-Agent": "rankers", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known}
    request = urllib.request.Request(download.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
            return True
        version.unlink()
        return False
    with response, part.open("r+b") as file:
        start = start if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        file.truncate(start)
        file.seek(start)
        write_file(version, _version(response.headers).encode())
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        _check_room(part, total or download.size, start)
        _copy(response, file, start, total, console)
        os.fsync(file.fileno())
    return total is None or part.stat().st_size == total


def _copy(
    response: http.client.HTTPResponse, file: io.BufferedRandom, start: int, total: int | None, console: Console
) -> None:
    columns = (TextColumn("Downloading"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("downloading", total=total, completed=start)
        while block := response.read(_BLOCK):
            file.write(block)
            bar.update(task, advance=len(block))


def _version(headers: http.client.HTTPMessage) -> str:
    """What tells whether the file was replaced between two requests; empty where the server says nothing firm."""
    tag = headers.get("ETag") or ""
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or ""


def _checked(download: Download, path: Path) -> str:
    """The hash of a file that has the size and hash expected; any other is removed if it was downloaded just now."""
    size = path.stat().st_size
    if download.size not in (None, size):
        raise _unexpected(download, path, f"has {size:,} bytes instead of {download.size:,}.")
    if download.hash is None and path == download.path:
        return ""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, download.algorithm).hexdigest()
    if download.hash not in (None, found):
        raise _unexpected(download, path, f"its {download.algorithm} is {found} instead of {download.hash}.")
    return found


def _unexpected(download: Download, path: Path, problem: str) -> ConfigError:
    cure = f"remove it and try again, or set {download.option} to your copy of {download.url}"
    if path != download.path:
        path.unlink()
        path.with_name(f"{path.name}.version").unlink(missing_ok=True)
        cure = f"try again; if it stays so, {download.url} has changed: set {download.option} to your own copy"
    return ConfigError(str(path), problem, cure=cure)


def _unavailable(download: Download, reason: str) -> ConfigError:
    place = download.path.resolve()
    cure = f"get it another way and put it at {place}; or set {download.option} to where you have the data"
    return ConfigError(download.url, f"cannot be downloaded ({reason}).", cure=cure)


def _check_room(part: Path, total: int | None, start: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        problem = f"needs {total - start:,} bytes more, and the disk has {free:,} free."
        raise ConfigError(str(part), problem, cure="make room, or let `data` be a link to a larger disk")


@contextmanager
def _claimed(download: Download) -> Iterator[Path]:
    """The file to download into, which no other process writes meanwhile."""
    path = download.path
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = part.open("ab")
    except OSError as error:
        cure = f"start in a folder that you may write to, or set {download.option} to where you have the data"
        raise ConfigError(str(part.absolute()), f"cannot be written ({error.strerror}).", cure=cure) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_file():
            with suppress(FileNotFoundError):
                part.unlink()
        yield part


def _tell(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
