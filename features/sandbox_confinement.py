"""Sandbox confinement: what a process gives up, for good, before it runs code or tests."""

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from features.sandbox_filter import install_filter
from features.sandbox_landlock import restrict
from features.sandbox_namespaces import become_nobody
from features.sandbox_syscalls import drop_privileges

NAMESPACES, LANDLOCK, SECCOMP = LAYERS = "namespaces", "landlock", "seccomp"
"""What can be had of the kernel; where there are namespaces, Landlock is not needed."""

_OPEN_FILES = 64
_OTHERS_IN_NAMESPACE = 4
_SPARE_FOR_THE_USER = 512


@dataclass(frozen=True)
class Confinement:
    """Limits and protections of one process.

    Args:
        limits: As numbers by their names.
        namespaces: Whether it is in namespaces of its worker.
        ruleset: Of Landlock; None for none.
        filter: Whether system calls are filtered.
    """

    limits: dict[str, Any]
    namespaces: bool
    ruleset: int | None
    filter: bool

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        """What to do in this order, each under the name of the layer that it belongs to."""
        found: list[tuple[str, Callable[[], None]]] = [("limits", self._limit)]
        if self.namespaces:
            found += [(NAMESPACES, become_nobody), (NAMESPACES, drop_privileges)]
        if self.ruleset is not None:
            found += [(LANDLOCK, drop_privileges), (LANDLOCK, partial(restrict, self.ruleset))]
        if self.filter:
            found += [(SECCOMP, drop_privileges), (SECCOMP, self._filter)]
        return found

    def apply(self) -> None:
        """Confine this process and whatever comes of it.

        Raises:
            OSError: If a protection is refused.
        """
        for _, step in self.steps():
            step()

    def _limit(self) -> None:
        for which, (soft, hard) in self._resources().items():
            most = resource.getrlimit(which)[1]
            if most != resource.RLIM_INFINITY:
                soft, hard = min(soft, most), min(hard, most)
            with suppress(ValueError, OSError):  # macOS has no limit of addresses
                resource.setrlimit(which, (soft, hard))

    def _filter(self) -> None:
        install_filter(os.getpid(), mounts=self.namespaces)

    def _resources(self) -> dict[int, tuple[int, int]]:
        seconds = int(self.limits["cpu_seconds"])
        others = _OTHERS_IN_NAMESPACE if self.namespaces else self.limits["tasks"]
        most = {
            resource.RLIMIT_AS: int(self.limits["memory_mb"] * 1e6),
            resource.RLIMIT_FSIZE: int(self.limits["file_mb"] * 1e6),
            resource.RLIMIT_NPROC: self.limits["threads"] + others,
            resource.RLIMIT_NOFILE: _OPEN_FILES,
            resource.RLIMIT_CORE: 0,
        }
        return {resource.RLIMIT_CPU: (seconds, seconds + 1), **{which: (each, each) for which, each in most.items()}}


def tasks_of_user() -> int:
    """How many threads the user may have by now, with some to spare: where only all of them together are limited."""
    user, count = os.getuid(), _SPARE_FOR_THE_USER
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.stat().st_uid == user:
                count += sum(1 for _ in (folder / "task").iterdir())
    return count
