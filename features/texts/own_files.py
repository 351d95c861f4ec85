"""Own files: the files that a source reads where they are the user's, who may have written them by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class OwnFile(Protocol):
    """A file of the user's own."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    def check_end(self) -> bool:
        """Read its last line; whether that was possible.

        Raises:
            ConfigError: If the line is not as it should be, such as one that is cut.
        """
        ...


@runtime_checkable
class FileSource(Protocol):
    """A source that reads files of the user's own."""

    @property
    def own_files(self) -> Sequence[OwnFile]:
        """What it reads; none if its texts come from elsewhere."""
        ...


def files_of(source: object) -> Sequence[OwnFile]:
    """The user's own files that a source reads; none for a published data set."""
    return source.own_files if isinstance(source, FileSource) else ()
