"""Folders: emptied whatever programs have left in them."""

import os
from contextlib import suppress
from pathlib import Path


def empty_folder(folder: Path) -> None:
    """Remove all that is in a folder, which may be deeper than there are descriptors, stack frames or long paths for.

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
                    # One level up, where its turn comes next.
                    below.chmod(0o700)
                    below.rename(folder / os.urandom(16).hex())
                else:
                    below.unlink()
            path.rmdir()


def remove_folder(folder: Path) -> None:
    """Remove a folder as far as that can be done; another process may be at it too."""
    with suppress(OSError):
        empty_folder(folder)
        folder.rmdir()
