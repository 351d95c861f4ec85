"""Machine: describes the machine, measures how fast it multiplies and copies, and how much memory is in use."""

import ctypes
import gc
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

PROC = Path("/proc")
"""What Linux tells of the machine and its processes; other systems have no such folder."""


def limit_cores(count: int) -> None:
    """Run this process and its children on this many cores, so that numbers of different machines are comparable."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    torch.set_num_threads(count)


def describe() -> dict[str, Any]:
    """CPU, cores in use, memory in GB, and the load by other work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "processor": _processor(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gb": round(memory, 1),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),
    }


def free_memory() -> int:
    """Bytes of memory that a new process can use; all of the machine's where the system does not say."""
    if not (about := PROC / "meminfo").is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = about.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def forget_peak_memory() -> None:
    """Measure `peak_memory` from here on; where the system cannot, it stays that of the whole process."""
    gc.collect()
    if sys.platform == "linux":
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
        with suppress(OSError):
            (PROC / "self/clear_refs").write_text("5", encoding="ascii")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """The most bytes of the machine's memory, not of a GPU's, that this process has had at a time."""
    status = PROC / "self/status"
    if found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii") if status.is_file() else ""):
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def multiplications_per_second(size: int = 2048) -> float:
    """The highest measured number of floating-point operations per second, in a large fp32 matrix product."""
    matrix = torch.randn(size, size)
    return 2 * size**3 / _best(lambda: matrix @ matrix)


def bytes_per_second(size: int = 1 << 26) -> float:
    """The highest measured number of bytes read and written per second, when fp32 is copied in memory."""
    source, target = torch.ones(size), torch.ones(size)
    return 2 * 4 * size / _best(lambda: target.copy_(source))


def _best(work: Callable[[], Any], repeats: int = 10) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _processor() -> str:
    cpuinfo = PROC / "cpuinfo"
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
