"""Work whose parts are each computed by one thread, so that results do not depend on the number of cores."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

P = TypeVar("P")
R = TypeVar("R")

# The number of threads of a matrix product is one setting for all threads of a process.
_lock = threading.Lock()


def in_single_threads(work: Callable[[P], R], parts: Sequence[P]) -> list[R]:
    """The results of work on each part; as many parts at once as torch may use threads, each in one of them.

    Two threads share a matrix product by its number of rows, which changes how the sums are rounded. One thread a part
    keeps all cores busy too, if there are several parts. Calls from several threads come one after the other.
    """
    with _lock:
        count = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if min(count, len(parts)) < 2:
                return [work(part) for part in parts]
            with ThreadPoolExecutor(count, initializer=partial(torch.set_num_threads, 1)) as threads:
                return list(threads.map(work, parts))
        finally:
            torch.set_num_threads(count)
