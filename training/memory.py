"""Memory: what large tensors free stays with the process, ready for the next batch."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Ask glibc not to hand freed memory back to the system; nothing where there is no glibc.

    A batch of stored vectors and its fp32 copy take hundreds of megabytes. By default each such tensor is mapped anew
    and given back when it is freed, and every one of its pages costs a fault: about a third of an epoch on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
