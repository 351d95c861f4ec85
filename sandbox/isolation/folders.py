"""Folders: empties and removes folders, whatever programs have left in them."""

import os
from contextlib import suppress
from pathlib import Path


def empty_folder(folder: Path) -> None:
    """Empty a folder, even one nested too deeply for file descriptors, stack frames or path lengths.

    Raises:
        OSError: If something cannot be removed.
    """
    while paths := list(folder.iterdir()):
        for path in paths:
            if not path.is_dir() or path.is_symlink():
                path.unlink()
                continue
            path.chmod(0o700)
            for below in list(path.iterdir()):
                if below.is_dir() and not below.is_symlink():
                    # Move it one level up; the next round of the outer loop empties it.
                    below.chmod(0o700)
                    below.rename(folder / os.urandom(16).hex())
                else:
                    below.unlink()
            path.rmdir()


def remove_folder(folder: Path) -> None:
    """Remove a folder as far as possible; another process may be removing it too."""
    with suppress(OSError):
        empty_folder(folder)
        folder.rmdir()
