"""Own files: the user's files that a source reads; they may be written by hand, so they are checked early."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class OwnFile(Protocol):
    """A file of the user."""

    @property
    def path(self) -> Path:
        """The path of the file."""
        ...

    def check_end(self) -> bool:
        """Check the last line; return whether it could be read.

        Raises:
            ConfigError: If the line is wrong, for example incomplete.
        """
        ...


@runtime_checkable
class FileSource(Protocol):
    """A source that reads the user's files."""

    @property
    def own_files(self) -> Sequence[OwnFile]:
        """The files that the source reads; empty if its texts come from elsewhere."""
        ...


def files_of(source: object) -> Sequence[OwnFile]:
    """The user's files that a source reads; empty for a published data set."""
    return source.own_files if isinstance(source, FileSource) else ()
