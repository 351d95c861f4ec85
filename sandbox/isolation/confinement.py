"""Confinement: the rights that a process gives up for good before it runs code or tests."""

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sandbox.isolation.filter import filter_program, filter_worker, program_filter
from sandbox.isolation.landlock import restrict
from sandbox.isolation.namespaces import become_nobody
from sandbox.isolation.syscalls import drop_new_privileges, drop_privileges

NAMESPACES, LANDLOCK, SECCOMP = LAYERS = "namespaces", "landlock", "seccomp"
"""The isolation layers that a kernel may offer; with namespaces, Landlock is not needed."""

_OPEN_FILES = 64
_OTHERS_IN_NAMESPACE = 4
_SPARE_FOR_THE_USER = 512


@dataclass(frozen=True)
class Confinement:
    """Limits and protections of one process.

    Args:
        limits: The limits of a program, as numbers by name.
        namespaces: Whether the process is in the namespaces of its worker.
        ruleset: The file descriptor of the Landlock rules; None if Landlock is not used.
        filter: Whether seccomp filters system calls.
    """

    limits: dict[str, Any]
    namespaces: bool
    ruleset: int | None
    filter: bool

    def confine_worker(self) -> None:
        """Confine the worker, and so all processes that it forks, as far as its own work allows.

        Raises:
            OSError: If a limit or the filter is refused.
        """
        others = _OTHERS_IN_NAMESPACE if self.namespaces else tasks_of_user()
        limits = {
            resource.RLIMIT_AS: self.limits["memory_mb"] * 10**6,
            resource.RLIMIT_FSIZE: self.limits["file_mb"] * 10**6,
            resource.RLIMIT_NPROC: self.limits["threads"] + others,
            resource.RLIMIT_NOFILE: _OPEN_FILES,
            resource.RLIMIT_CORE: 0,
        }
        for which, limit in limits.items():
            _limit(which, limit)
        if self.filter:
            drop_new_privileges()
            filter_worker()
            program_filter(self.namespaces)

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        """The steps of `confine_child` in order, each with the name of its isolation layer."""
        found: list[tuple[str, Callable[[], None]]] = []
        if self.namespaces:
            found.append((NAMESPACES, become_nobody))
        if self.namespaces or self.filter or self.ruleset is not None:
            found.append((NAMESPACES if self.namespaces else SECCOMP, drop_privileges))
        if self.ruleset is not None:
            found.append((LANDLOCK, partial(restrict, self.ruleset)))
        if self.filter:
            found.append((SECCOMP, partial(filter_program, self.namespaces)))
        return found

    def confine_child(self) -> None:
        """Confine a process that the worker has forked, for good.

        Raises:
            OSError: If a protection is refused.
        """
        for _, step in self.steps():
            step()

    def limit_time(self) -> None:
        """Let the kernel kill this process when it has used the CPU time of a program."""
        _limit(resource.RLIMIT_CPU, self.limits["cpu_seconds"])


def _limit(which: int, limit: int) -> None:
    allowed = resource.getrlimit(which)[1]
    limit = limit if allowed == resource.RLIM_INFINITY else min(limit, allowed)
    with suppress(ValueError, OSError):  # macOS has no limit of addresses
        resource.setrlimit(which, (limit, limit))


def tasks_of_user() -> int:
    """How many threads the user has now, plus a reserve, for a limit that counts all threads of a user."""
    user, count = os.getuid(), _SPARE_FOR_THE_USER
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.stat().st_uid == user:
                count += sum(1 for _ in (folder / "task").iterdir())
    return count
