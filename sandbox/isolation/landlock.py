"""Landlock: limits which files a program may read and write where it has no mounts of its own."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from sandbox.isolation.syscalls import call

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_MAKE_FIFO, _MAKE_SYM, _REFER, _TRUNCATE = 1 << 10, 1 << 12, 1 << 13, 1 << 14
_OWN = (
    _WRITE_FILE | _READ_FILE | _READ_DIR | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_FIFO | _MAKE_SYM
) | (_REFER | _TRUNCATE)
_FILE_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
_TCP, _SIGNALS_AND_ABSTRACT_SOCKETS = 0b11, 0b11
_VERSION, _PATH_BENEATH = 1, 1


def build_ruleset(readable: Sequence[str], devices: Sequence[str], writable: str) -> int:
    """Build rules for `restrict`; return their file descriptor.

    Args:
        readable: Files and folders that may be read.
        devices: Files that may be read and written.
        writable: The folder that may be written to.

    Raises:
        OSError: If the kernel has no Landlock.
    """
    version = call("landlock_create_ruleset", None, 0, _VERSION)
    rights = _FILE_RIGHTS.get(version, max(_FILE_RIGHTS.values()))
    wanted = (rights, _TCP if version >= 4 else None, _SIGNALS_AND_ABSTRACT_SOCKETS if version >= 6 else None)
    attributes = b"".join(struct.pack("=Q", each) for each in wanted if each is not None)
    ruleset = call("landlock_create_ruleset", attributes, len(attributes), 0)
    for path in readable:
        _allow(ruleset, path, (_READ_FILE | _READ_DIR if Path(path).is_dir() else _READ_FILE) & rights)
    for path in devices:
        _allow(ruleset, path, (_READ_FILE | _WRITE_FILE) & rights)
    _allow(ruleset, writable, _OWN & rights)
    return ruleset


def restrict(ruleset: int) -> None:
    """Apply the rules to this process for good; call `drop_new_privileges` first, as the kernel demands."""
    call("landlock_restrict_self", ruleset, 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        call("landlock_add_rule", ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, file), 0)
    finally:
        os.close(file)
