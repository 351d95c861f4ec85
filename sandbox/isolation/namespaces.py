"""Namespaces: give a worker a separate network, mounts, process numbers and users."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from sandbox.isolation.syscalls import call

NOBODY = 65534
"""The user and group that programs run as."""

TEMPORARY = "/tmp"

_NEW_MOUNTS, _NEW_IPC, _NEW_USERS, _NEW_PIDS, _NEW_NETWORK = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_NOSUID, _NODEV, _NOEXEC, _BIND, _RECURSIVE, _PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000
_DETACH, _HERE, _ALL_BELOW = 2, -100, 0x8000
_READ_ONLY_AND_NOSUID = 0x1 | 0x2
_INODES = 4096


def enter_namespaces() -> None:
    """Move this process to new namespaces, in which it has every right; only its children get new process numbers.

    Root gives programs a separate user, because root itself is exempt from the limit of threads. An ordinary user can
    only map its own user to another number.

    Raises:
        OSError: If the kernel does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    tell = _start_mapper() if user == 0 else None
    call("unshare", _NEW_USERS | _NEW_MOUNTS | _NEW_NETWORK | _NEW_IPC | _NEW_PIDS)
    if tell is not None and tell():
        return
    for name, text in ("setgroups", "deny"), ("uid_map", f"{NOBODY} {user} 1"), ("gid_map", f"{NOBODY} {group} 1"):
        Path("/proc/self", name).write_text(text)


def build_root(place: str, readable: Sequence[str], devices: Sequence[str], megabytes: int) -> None:
    """Make a new file system the root; it has only the listed files, read-only, and an empty `/tmp`.

    Args:
        place: An empty folder, where the new root is mounted.
        readable: Folders that programs may read.
        devices: Device files that programs may use.
        megabytes: The size of `/tmp` in MB.

    Raises:
        OSError: If the kernel does not allow it.
    """
    call("mount", None, b"/", None, _RECURSIVE | _PRIVATE, None)
    call("mount", b"tmpfs", place.encode(), b"tmpfs", _NOSUID | _NODEV, b"size=1m,mode=755")
    Path(place + TEMPORARY).mkdir()
    for path in readable:
        Path(place + path).mkdir(parents=True, exist_ok=True)
    for path in devices:
        Path(place + path).parent.mkdir(parents=True, exist_ok=True)
        Path(place + path).touch()
    for path in [*readable, *devices]:
        call("mount", path.encode(), (place + path).encode(), None, _BIND | _RECURSIVE, None)
    os.chdir(place)
    call("pivot_root", b".", b".")
    call("umount2", b".", _DETACH)
    os.chdir("/")
    attributes = _READ_ONLY_AND_NOSUID.to_bytes(8, "little") + bytes(24)
    call("mount_setattr", _HERE, b"/", _ALL_BELOW, attributes, len(attributes))
    mount_temporary(megabytes)


def mount_temporary(megabytes: int) -> None:
    """Mount an empty file system of limited size at `/tmp`."""
    options = f"size={megabytes * 10**6},nr_inodes={_INODES},mode=700,uid={NOBODY},gid={NOBODY}"
    call("mount", b"tmpfs", TEMPORARY.encode(), b"tmpfs", _NOSUID | _NODEV | _NOEXEC, options.encode())


def empty_temporary(megabytes: int) -> None:
    """Empty `/tmp`: replace its file system by a new one."""
    if any(Path(TEMPORARY).iterdir()):
        call("umount2", TEMPORARY.encode(), _DETACH)
        mount_temporary(megabytes)


def open_own_pids() -> int:
    """A file descriptor of this process's namespace of process numbers."""
    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


def renew_pids(own: int) -> None:
    """Make the next child the first process of a new namespace; when it ends, the kernel kills all others there.

    Args:
        own: The file descriptor from `open_own_pids`; a process can create a new namespace only from there.
    """
    keep_pids(own)
    call("unshare", _NEW_PIDS)


def keep_pids(own: int) -> None:
    """Put the next child into this process's namespace of process numbers."""
    call("setns", own, _NEW_PIDS)


def become_nobody() -> None:
    """From now on, run as the unprivileged user of programs."""
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _start_mapper() -> Callable[[], bool]:
    """Fork a child that may map two users; calling the returned function makes it do so and says whether it could."""
    parent, (begin, go) = os.getpid(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        if not os.read(begin, 1):
            os._exit(1)
        try:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{parent}", name).write_text(f"0 0 1\n{NOBODY} {NOBODY} 1\n")
        except OSError:
            os._exit(1)
        os._exit(0)
    os.close(begin)

    def tell() -> bool:
        os.write(go, b".")
        os.close(go)
        return os.waitpid(child, 0)[1] == 0

    return tell
