"""PublishedData: the files of a published data set, a copy that the user has or a download, and the rows in them."""

import fnmatch
import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from features.reading.downloads import Download, fetch
from features.reading.fields import LineError, Record
from features.reading.lines import TextFile
from features.reading.records import RecordFile
from ranking.stores.files import sha256_of
from registry import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class PublishedData:
    """Where a data set is.

    Args:
        path: The user's copy: a folder, a file, or a `.tar` archive; None downloads it.
        parts: For each part of it the names its files go by, as patterns below the folder; the first one that is there
            counts. A file whose name is none of them is taken for the first part.
        downloads: For each part what to download; one archive may hold several.
        expected: What a folder should have in it, for errors.
    """

    path: str | None
    parts: Mapping[str, Sequence[str]]
    downloads: Mapping[str, Download]
    expected: str

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The hash of each part's files, or of what would be downloaded."""
        if self.path is None:
            files = {download.url: download.fingerprint for download in self.downloads.values()}
            return {"files": list(files.values())}
        return {"files": [_fingerprint(files) for part in self.parts if (files := self.files(part))]}

    def files(self, part: str) -> list[Path]:
        """The files of a part; none where the user's copy does not have it.

        Raises:
            ConfigError: If the copy has none of the parts, or a download cannot be had.
        """
        return self._files[part] if self.path is not None else [fetch(self.downloads[part])]

    def rows(self, part: str, parse: Callable[[Record, str], T]) -> Iterator[T]:
        """What `parse` makes of each row of a part.

        Args:
            part: Which.
            parse: Of a row and its place; raises LineError for a bad one.

        Raises:
            ConfigError: After a file's last row: every fault, with the rows that have it.
        """
        for file in self.files(part):
            if file.suffix == ".tar":
                yield from self._archived(file, part, parse)
            else:
                yield from RecordFile(file).parsed((), parse)

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        copy = Path(self.path or "")
        if copy.is_file():
            named = {part: [copy] for part in self.parts if copy.suffix == ".tar" or self._names(part, copy)}
            return {part: [] for part in self.parts} | (named or {next(iter(self.parts)): [copy]})
        found = {part: self._found(copy, patterns) for part, patterns in self.parts.items()}
        if not any(found.values()):
            problem = "has none of its files." if copy.is_dir() else "no such file or folder."
            cure = f"set features.source.path to {self.expected}; without a path it is downloaded"
            raise ConfigError(str(copy), problem, cure=cure)
        return found

    def _names(self, part: str, file: Path) -> bool:
        return any(fnmatch.fnmatch(file.name, PurePosixPath(pattern).name) for pattern in self.parts[part])

    def _found(self, folder: Path, patterns: Sequence[str]) -> list[Path]:
        found = (sorted(file for file in folder.glob(pattern) if file.is_file()) for pattern in patterns)
        return next(filter(None, found), [])

    def _archived(self, file: Path, part: str, parse: Callable[[Record, str], T]) -> Iterator[T]:
        """Of the objects in an archive of JSON files, those whose names fit the part's patterns."""
        place = file.name
        try:
            with tarfile.open(file) as archive:
                for member in archive:
                    name, place = PurePosixPath(member.name), f"{file.name}, {member.name}"
                    if member.isfile() and any(name.match(pattern) for pattern in self.parts[part]):
                        content = archive.extractfile(member)
                        assert content is not None
                        yield parse(json.load(content), place)
        except LineError as error:
            raise ConfigError(place, f"{error}.", cure="get the file again") from error
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise ConfigError(place, f"cannot be read on ({error}).", cure="get the file again") from error


def _fingerprint(files: list[Path]) -> dict[str, Any]:
    """Of many files, such as one a problem, their number and one hash of all."""
    if len(files) == 1:
        return TextFile(files[0]).fingerprint
    hashes = "".join(sha256_of(file) for file in files)
    return {"number": len(files), "sha256": hashlib.sha256(hashes.encode()).hexdigest()}
