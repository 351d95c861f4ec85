"""Machine: describes the machine, and measures how fast it multiplies and copies."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


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
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
