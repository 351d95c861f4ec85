"""Own files: the files that a source reads where they are the user's, who may have written them by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class FileSource(Protocol):
    """A source that reads files of the user's own."""

    @property
    def files(self) -> Sequence[Path]:
        """What it reads; none if its texts come from elsewhere."""
        ...


def files_of(source: object) -> Sequence[Path]:
    """The user's own files that a source reads; none for a published data set."""
    return source.files if isinstance(source, FileSource) else ()
