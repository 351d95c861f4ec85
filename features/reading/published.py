"""PublishedData: reads the files of a published data set, from the user's copy or a download."""

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
    """The location of a data set.

    Args:
        path: The user's copy: a folder, a file, or a `.tar` archive; None downloads the data set.
        parts: For each part, the possible names of its files, as patterns in the folder; the first name that exists
            counts. If the path is a file with another name, it is the first part.
        downloads: For each part, the download; one archive may have several parts.
        expected: What the folder must contain, for error messages.
    """

    path: str | None
    parts: Mapping[str, Sequence[str]]
    downloads: Mapping[str, Download]
    expected: str

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The hash of each part's files, or of its download."""
        if self.path is None:
            files = {download.url: download.fingerprint for download in self.downloads.values()}
            return {"files": list(files.values())}
        return {"files": [_fingerprint(files) for part in self.parts if (files := self.files(part))]}

    def files(self, part: str) -> list[Path]:
        """The files of a part; empty if the user's copy does not have this part.

        Raises:
            ConfigError: If the copy has none of the parts, or the download fails.
        """
        return self._files[part] if self.path is not None else [fetch(self.downloads[part])]

    def rows(self, part: str, parse: Callable[[Record, str], T]) -> Iterator[T]:
        """Yield the result of `parse` for each row of a part.

        Args:
            part: The name of the part.
            parse: Called with a row and its place; raises LineError for a bad row.

        Raises:
            ConfigError: After the last row of a file: all mistakes, each with its rows.
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
            option = next(iter(self.downloads.values())).option
            cure = f"set {option} to {self.expected}, or to null to download the data set"
            raise ConfigError(str(copy), problem, cure=cure)
        return found

    def _names(self, part: str, file: Path) -> bool:
        return any(fnmatch.fnmatch(file.name, PurePosixPath(pattern).name) for pattern in self.parts[part])

    def _found(self, folder: Path, patterns: Sequence[str]) -> list[Path]:
        found = (sorted(file for file in folder.glob(pattern) if file.is_file()) for pattern in patterns)
        return next(filter(None, found), [])

    def _archived(self, file: Path, part: str, parse: Callable[[Record, str], T]) -> Iterator[T]:
        """Yield the results for the JSON files in an archive whose names match the patterns of the part."""
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
            raise ConfigError(place, f"is damaged ({error}).", cure="get the file again") from error


def _fingerprint(files: list[Path]) -> dict[str, Any]:
    """The hashes of files; for many files, such as one per problem, their number and one hash of all."""
    if len(files) == 1:
        return TextFile(files[0]).fingerprint
    hashes = "".join(sha256_of(file) for file in files)
    return {"number": len(files), "sha256": hashlib.sha256(hashes.encode()).hexdigest()}
