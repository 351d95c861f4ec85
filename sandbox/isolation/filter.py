"""Filter: the system calls that a program may not make, enforced by seccomp."""

import ctypes
import errno
import os
import platform
import struct
import sys
from functools import cache

from sandbox.isolation.syscalls import MACHINES, call, number

REFUSED = (
    # Other processes: none may be executed, traced or signalled.
    "execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_open",
    "pidfd_getfd", "pidfd_send_signal", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "setpriority", "ioprio_set",
    "sched_setscheduler", "sched_setattr", "sched_setparam", "sched_setaffinity", "move_pages", "migrate_pages",
    # The network, and sockets of other programs.
    "socket", "connect", "bind", "listen", "accept", "accept4",
    # Memory that no limit counts, or that outlives its process.
    "memfd_create", "memfd_secret", "shmget", "shmat", "semget", "msgget", "mq_open",
    # The system, and rarely used parts of the kernel.
    "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
    "name_to_handle_at", "open_by_handle_at", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup",
    "io_uring_enter", "io_uring_register", "keyctl", "add_key", "request_key", "init_module", "finit_module",
    "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "settimeofday",
    "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "syslog", "personality", "iopl",
    "ioperm", "modify_ldt",
)  # fmt: skip
"""Refused to the worker, and so to all processes that it forks."""

REFUSED_TO_PROGRAMS = ("fork", "vfork", "setsid", "setpgid", "mount", "umount2", "unshare", "setns")
REFUSED_WITHOUT_MOUNTS = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utime", "utimes", "futimesat",
    "utimensat", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
)  # fmt: skip
"""Refused to programs where Landlock protects files: it allows changes to the owner, rights and times of any file."""

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ARCHITECTURES = (0xC000003E, 0xC00000B7)
_X32 = 0x40000000
_SET_SECCOMP, _MODE_FILTER = 22, 2

_ALL_BITS = 0xFFFFFFFF
_CLONE_THREAD = 0x10000
_AF_UNIX, _SOCK_STREAM, _SOCKET_TYPES = 1, 1, 0xF
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETPIPE_SZ = 8, 10, 15, 1031
_FIOSETOWN, _SIOCSPGRP, _TIOCSTI = 0x8901, 0x8902, 0x5412

_OWN = 0x7FFFFFFE  # stands for the program's own process number; real ones are never so high
_SIZE = 8

_Instruction = tuple[int, int, int, int]


def filter_worker() -> None:
    """Refuse system calls that neither this process nor its children need; they fail with EPERM.

    Raises:
        OSError: If the kernel has no seccomp, or the numbers of this machine's system calls are not known.
    """
    rules = [
        *(_guard(name, [_fail()]) for name in REFUSED),
        _only("prlimit64", (0, _ALL_BITS, 0)),
        _only("socketpair", (0, _ALL_BITS, _AF_UNIX), (1, _SOCKET_TYPES, _SOCK_STREAM)),
        _never("fcntl", 1, (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETPIPE_SZ)),
        _never("ioctl", 1, (_FIOSETOWN, _SIOCSPGRP, _TIOCSTI)),
    ]
    _install(_compiled(rules))


def filter_program(mounts: bool) -> None:
    """Also forbid this process to start others, to leave its process group, and to signal any process but itself.

    Args:
        mounts: Whether the files that it sees are read-only mounts, so that it cannot change their rights.

    Raises:
        OSError: If the kernel refuses.
    """
    own = os.getpid().to_bytes(4, sys.byteorder)
    _install(program_filter(mounts).replace(_OWN.to_bytes(4, sys.byteorder), own))


@cache
def program_filter(mounts: bool) -> bytes:
    """The filter of programs, with a placeholder for the process number; compiled once, before the first fork."""
    refused = [*REFUSED_TO_PROGRAMS, *(() if mounts else REFUSED_WITHOUT_MOUNTS)]
    rules = [
        *(_guard(name, [_fail()]) for name in refused),
        _guard("clone3", [_fail(errno.ENOSYS)]),  # a filter cannot read its flags; C libraries then use clone
        _only("clone", (0, _CLONE_THREAD, _CLONE_THREAD)),
        _only("kill", (0, _ALL_BITS, _OWN)),
        _only("tgkill", (0, _ALL_BITS, _OWN)),
    ]
    return _compiled(rules)


def _install(code: bytes) -> None:
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(code) // _SIZE, ctypes.addressof(buffer))
    call("prctl", _SET_SECCOMP, _MODE_FILTER, program, 0, 0)


def _compiled(rules: list[list[_Instruction]]) -> bytes:
    """The rules in the kernel's format; all other calls are allowed, on this architecture only."""
    number(REFUSED[0])
    architecture = _ARCHITECTURES[MACHINES.index(platform.machine())]
    first = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    second = [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    every = [first, second, *rules, [(_RETURN, 0, 0, _ALLOW)]]
    return b"".join(struct.pack("=HBBI", *instruction) for rule in every for instruction in rule)


def _guard(name: str, body: list[_Instruction]) -> list[_Instruction]:
    """Instructions that apply to one system call only; `body` must end with a return."""
    own = number(name)
    return [] if own is None else [(_EQUAL, 0, len(body), own), *body]


def _only(name: str, *conditions: tuple[int, int, int]) -> list[_Instruction]:
    """Refuse a system call unless each argument, under its mask, equals its value."""
    body = [
        instruction
        for argument, mask, value in conditions
        for instruction in (
            (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
            (_AND, 0, 0, mask),
            (_EQUAL, 1, 0, value),
            _fail(),
        )
    ]
    return _guard(name, [*body, (_RETURN, 0, 0, _ALLOW)])


def _never(name: str, argument: int, values: tuple[int, ...]) -> list[_Instruction]:
    """Refuse a system call if an argument is one of the values."""
    tests = [instruction for value in values for instruction in ((_EQUAL, 0, 1, value), _fail())]
    return _guard(name, [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), *tests, (_RETURN, 0, 0, _ALLOW)])


def _fail(code: int = errno.EPERM) -> _Instruction:
    return _RETURN, 0, 0, _FAIL | code
