"""Memory: keeps the freed memory of large tensors in the process for the next batch."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it to the system; does nothing without glibc.

    A batch of stored vectors and its fp32 copy take hundreds of megabytes. By default, glibc maps new memory for each
    such tensor and unmaps it afterwards. Every new page causes a page fault, which takes about a third of an epoch on a
    CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
