"""TextFile: reads the lines of a file, plain, gzipped, or inside an archive, without unpacking it."""

import csv
import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from features.reading.faults import Faults
from features.reading.fields import LineError, as_finite
from features.reading.file_forms import GZIP, HEAD, FileForm, foreign_form
from ranking.stores.files import sha256_of
from registry import ConfigError
from registry.schema import NUMBER

T = TypeVar("T")

_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_LAST = 2**20
"""Number of bytes at the end of a file that are searched for its last line."""
_UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


@dataclass(frozen=True)
class TextFile:
    """A file of lines.

    Args:
        path: The file, gzipped or not, with any name, or a zip or tar archive.
        member: The name, without folders, of the file to read in an archive.
        encoding: The encoding of lines that are not UTF-8, as in older data sets.
    """

    path: Path
    member: str = ""
    encoding: str | None = None

    @property
    def name(self) -> str:
        """The name in fingerprints and in places of rows."""
        return f"{self.path.name}, {self.member}" if self.member else self.path.name

    @property
    def place(self) -> str:
        """The name in errors, with the folder, because other folders may have files with the same name."""
        return f"{self.path}, {self.member}" if self.member else str(self.path)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """The name, size and hash of the file."""
        return {"name": self.name, "bytes": self.path.stat().st_size, "sha256": sha256_of(self.path)}

    def lines(self) -> Iterator[bytes]:
        """Yield every line, without its line end.

        Raises:
            ConfigError: If the file is damaged, is not text, or is not in its archive.
        """
        number = 0
        try:
            with self._opened() as file:
                if form := foreign_form(file.peek(HEAD)[:HEAD]):
                    raise self.foreign(form)
                for number, line in enumerate(file, start=1):
                    yield (line[3:] if number == 1 and line.startswith(b"\xef\xbb\xbf") else line).rstrip(b"\r\n")
        except _UNREADABLE as error:
            place = f"{self.place}, after line {number}" if number else self.place
            raise ConfigError(place, f"is damaged ({error}).", cure="get the file again") from error

    def decoded(self, line: bytes) -> str:
        """A line as text.

        Raises:
            LineError: If it is not in the file's encoding.
        """
        if 0 in line:
            cure = "get the file again: a crash, a full disk or another encoding leaves NUL bytes"
            raise LineError("", f"a NUL byte at {line.index(0)}; expected text", cure)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            if self.encoding:
                return line.decode(self.encoding)
            cure = "convert the file to UTF-8: iconv -f LATIN1 -t UTF-8 FILE > NEW, with its encoding for LATIN1"
            raise LineError("", f"not UTF-8: byte {line[error.start]:#04x} at {error.start}", cure) from error

    def first_line(self) -> str:
        """The first line that is not blank, to recognize the format; empty if there is none."""
        return next((line for line in self.lines() if line.strip()), b"").decode(self.encoding or "utf-8", "replace")

    def last_line(self) -> bytes | None:
        """The last line that is not blank, read from the end; None if it is very long, gzipped, or in an archive.

        Raises:
            ConfigError: If the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                if self.member or file.read(len(GZIP)) == GZIP:
                    return None
                file.seek(max(0, self.path.stat().st_size - _LAST))
                whole, tail = file.tell() == 0, file.read().rstrip()
        except OSError as error:
            raise ConfigError(self.place, f"cannot be read ({error}).") from error
        _, end, last = tail.rpartition(b"\n")
        return last if end or whole else None

    def check_end(self, parse: Callable[[str], object] = str) -> bool:
        """Check only the last line; return whether it was found without reading all lines before it.

        Args:
            parse: Reads a line; raises LineError for a bad line.

        Raises:
            ConfigError: If the line is bad.
        """
        line = self.last_line()
        if line is None:
            return False
        try:
            parse(self.decoded(line))
        except LineError as error:
            cure = error.cure or "get the file again, if it was cut off there"
            raise ConfigError(f"{self.place}, last line", f"{error}.", cure=cure) from error
        return True

    def foreign(self, form: FileForm) -> ConfigError:
        """The error for a file that is not lines of text."""
        return ConfigError(str(self.path), f"{self.member or 'it'} {form.name}.", cure=form.cure)

    def parsed(self, parse: Callable[[str], T], skip: int = 0) -> Iterator[T]:
        """Yield the result of `parse` for each line that is not blank; skip bad lines, and report them at the end.

        Args:
            parse: Reads a line; raises LineError for a bad line.
            skip: Number of lines at the beginning that are not data.

        Raises:
            ConfigError: After the last line: all mistakes, each with its lines.
        """
        return Faults(self.place).parsed(self.numbered(skip), lambda _, line: parse(line))

    def numbered(self, skip: int = 0, *, blank: bool = False) -> Iterator[tuple[int, str | LineError]]:
        """Yield each line as text with its number, counted from 1; a line that is not text becomes a LineError.

        Args:
            skip: Number of lines to skip at the beginning.
            blank: Whether to yield blank lines, too.
        """
        for number, line in enumerate(self.lines(), start=1):
            if number > skip and (blank or line.strip()):
                try:
                    yield number, self.decoded(line)
                except LineError as error:
                    yield number, error

    def rows(
        self, separator: str, wanted: Sequence[str], parse: Callable[..., T], columns: Sequence[str] | None = None
    ) -> Iterator[T]:
        """Yield the result of `parse` for some fields of each line.

        Args:
            separator: The separator of fields; with a comma, fields may be quoted.
            wanted: The columns that `parse` gets, in this order.
            parse: Reads the fields of a row; raises LineError for a bad row.
            columns: The names of all columns; None if the first line has them, possibly with a type as in `id:token`.

        Raises:
            ConfigError: For the reasons of `parsed`, or if a column is missing.
        """
        given = columns if columns is not None else self.columns(separator)
        if missing := [name for name in wanted if name not in given]:
            problem = f"has no column {missing[0]!r}."
            raise ConfigError(self.place, problem, given=missing[0], known=given)
        places, size = [given.index(name) for name in wanted], len(given)

        def parse_line(line: str) -> T:
            fields = _fields(line, separator)
            if len(fields) != size:
                raise LineError("", f"has {len(fields)} fields, expected {size}: {', '.join(given)}")
            return parse(*(fields[place] for place in places))

        return self.parsed(parse_line, skip=0 if columns is not None else 1)

    def columns(self, separator: str) -> list[str]:
        """The names in the first line, without their types.

        Raises:
            ConfigError: If it cannot be read.
        """
        first = next(self.lines(), b"")
        try:
            return [name.partition(":")[0].strip() for name in _fields(self.decoded(first), separator)]
        except LineError as error:
            raise ConfigError(f"{self.place}, line 1", f"{error}.") from error

    @contextmanager
    def _opened(self) -> Iterator[io.BufferedReader]:
        with ExitStack() as stack:
            yield _unzipped(stack, stack.enter_context(self._content()))

    @contextmanager
    def _content(self) -> Iterator[Any]:
        """Open the file, or the member of the archive."""
        with ExitStack() as stack:
            if not self.member:
                yield stack.enter_context(self.path.open("rb"))
            elif self.path.suffix == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                names = [name for name in archive.namelist() if Path(name).name == self.member]
                if not names:
                    raise zipfile.BadZipFile(f"there is no {self.member} in it")
                yield stack.enter_context(archive.open(names[0]))
            else:
                members = stack.enter_context(tarfile.open(self.path))
                found = next((each for each in members if Path(each.name).name == self.member and each.isfile()), None)
                if found is None or (file := members.extractfile(found)) is None:
                    raise tarfile.TarError(f"there is no {self.member} in it")
                yield stack.enter_context(file)


def find_file(folder: Path, name: str, archives: Sequence[str] = (), encoding: str | None = None) -> TextFile | None:
    """Find a file in a folder: plain, gzipped, or inside one of these archives; None if it is not there.

    Args:
        folder: The folder to search; a zip archive counts as a folder.
        name: The name of the file.
        archives: Names of archives that may have the file.
        encoding: The encoding of lines that are not UTF-8.

    Raises:
        ConfigError: If the zip archive is damaged.
    """
    if folder.suffix == ".zip" and folder.is_file():
        try:
            with zipfile.ZipFile(folder) as archive:
                known = {Path(member).name for member in archive.namelist()}
        except _UNREADABLE as error:
            raise ConfigError(str(folder), f"cannot be read as an archive ({error}).", cure="get it again") from error
        return TextFile(folder, name, encoding) if name in known else None
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return TextFile(path, encoding=encoding)
    found = next((folder / archive for archive in archives if (folder / archive).is_file()), None)
    return TextFile(found, name, encoding) if found else None


def number(field: str, value: str) -> float:
    """A field as a number, written in digits.

    Raises:
        LineError: If it is not a number, or not finite.
    """
    # Python would also read 1_0 as 10, and digits of other scripts.
    if not NUMBER.fullmatch(value.strip()):
        wanted = "a finite number" if _NOT_FINITE.fullmatch(value.strip()) else "a number"
        raise LineError(field, f"found {value[:40]!r}, expected {wanted}")
    return as_finite(field, float(value))


def _fields(line: str, separator: str) -> list[str]:
    if separator == "," and '"' in line:
        return next(csv.reader([line]))
    return line.split(separator)


def _unzipped(stack: ExitStack, content: Any) -> io.BufferedReader:
    """The content, decompressed if its first bytes show that it is gzipped."""
    file = stack.enter_context(io.BufferedReader(content))
    if file.peek(len(GZIP))[: len(GZIP)] != GZIP:
        return file
    return stack.enter_context(io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=file))))
