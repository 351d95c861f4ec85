"""Syscalls: the Linux system calls that the sandbox makes or refuses and that Python does not offer."""

import ctypes
import os
import platform
import sys
from functools import cache
from typing import Any

MACHINES = ("x86_64", "aarch64")
_TABLE = """
    accept 43 202, accept4 288 242, acct 163 89, add_key 248 217, adjtimex 159 171, bind 49 200, bpf 321 280,
    capset 126 91, chmod 90 -, chown 92 -, chroot 161 51, clock_adjtime 305 266, clock_settime 227 112,
    clone 56 220, clone3 435 435, connect 42 203, delete_module 176 106, execve 59 221, execveat 322 281,
    fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, fchown 93 55, fchownat 260 54, fcntl 72 25,
    finit_module 313 273, fork 57 -, fremovexattr 199 16, fsconfig 431 431, fsetxattr 190 7, fsmount 432 432,
    fsopen 430 430, fspick 433 433, futimesat 261 -, init_module 175 105, io_uring_enter 426 426,
    io_uring_register 427 427, io_uring_setup 425 425, ioctl 16 29, ioperm 173 -, iopl 172 -, ioprio_set 251 30,
    kcmp 312 272, kexec_file_load 320 294, kexec_load 246 104, keyctl 250 219, kill 62 129,
    landlock_add_rule 445 445, landlock_create_ruleset 444 444, landlock_restrict_self 446 446, lchown 94 -,
    listen 50 201, lremovexattr 198 15, lsetxattr 189 6, memfd_create 319 279, memfd_secret 447 447,
    migrate_pages 256 238, modify_ldt 154 -, mount 165 40, mount_setattr 442 442, move_mount 429 429,
    move_pages 279 239, mq_open 240 180, msgget 68 186, name_to_handle_at 303 264, open_by_handle_at 304 265,
    open_tree 428 428, perf_event_open 298 241, personality 135 92, pidfd_getfd 438 438, pidfd_open 434 434,
    pidfd_send_signal 424 424, pivot_root 155 41, prctl 157 167, prlimit64 302 261, process_madvise 440 440,
    process_vm_readv 310 270, process_vm_writev 311 271, ptrace 101 117, quotactl 179 60, reboot 169 142,
    removexattr 197 14, request_key 249 218, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240,
    sched_setaffinity 203 122, sched_setattr 314 274, sched_setparam 142 118, sched_setscheduler 144 119,
    semget 64 190, setdomainname 171 162, sethostname 170 161, setns 308 268, setpgid 109 154,
    setpriority 141 140, setsid 112 157, settimeofday 164 170, setxattr 188 5, shmat 30 196, shmget 29 194,
    socket 41 198, socketpair 53 199, swapoff 168 225, swapon 167 224, syslog 103 116, tgkill 234 131,
    tkill 200 130, umount2 166 39, unshare 272 97, userfaultfd 323 282, utime 132 -, utimensat 280 88,
    utimes 235 -, vfork 58 -
"""
NUMBERS: dict[str, tuple[int | None, ...]] = {
    name: tuple(None if number == "-" else int(number) for number in numbers)
    for name, *numbers in (entry.split() for entry in _TABLE.split(","))
}
"""The number of each system call on each of the machines; None where it does not exist."""

_NO_NEW_PRIVILEGES, _DUMPABLE, _CHILD_SUBREAPER, _PARENT_DEATH_SIGNAL = 38, 4, 36, 1
_NO_CAPABILITY = 0x20080522.to_bytes(4, sys.byteorder) + bytes(28)


@cache
def number(name: str) -> int | None:
    """The number of a system call on this machine; None if it has no such call.

    Raises:
        OSError: If the numbers of this machine are not known.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise OSError(0, f"not known for {platform.system()} on {platform.machine()}")
    return NUMBERS[name][MACHINES.index(platform.machine())]


def call(name: str, *arguments: Any) -> int:
    """Make a system call.

    Args:
        name: The name of the call.
        arguments: Integers, bytes, ctypes pointers, and None for a null pointer.

    Raises:
        OSError: If the call fails; the message names it.
    """
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = _libc().syscall(ctypes.c_long(number(name) or -1), *given)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def drop_privileges() -> None:
    """Give up every capability, and the possibility to gain one."""
    call("capset", _NO_CAPABILITY[:8], _NO_CAPABILITY[8:])
    drop_new_privileges()


def drop_new_privileges() -> None:
    """Give up the possibility to gain privileges by executing a file."""
    call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def hide_memory() -> None:
    """Prevent other processes of the same user from reading the memory of this process and its children."""
    call("prctl", _DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents have ended."""
    call("prctl", _CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent(signal: int) -> None:
    """Let the kernel send this process a signal when its parent ends."""
    call("prctl", _PARENT_DEATH_SIGNAL, signal, 0, 0, 0)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
