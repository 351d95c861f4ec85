"""Peers: runs other libraries, each in its own process, so that its threads do not disturb others."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from typing import Any

import torch

from registry import ConfigError

Work = tuple[Callable[[], Any], Callable[[Any], Any]]
"""The function to time, and the function that then reduces its result to the part to send back."""

_work: Work


def require(*modules: str) -> None:
    """Check that the libraries to compare with are installed.

    Raises:
        ConfigError: If one is missing.
    """
    if missing := [module for module in modules if find_spec(module) is None]:
        raise ConfigError("benchmarks", f"{missing[0]} is not installed.", cure="pip install -e '.[peers]'")


class Way:
    """Work that is set up once, then executed at each call.

    Args:
        set_up: Returns the work.
        arguments: Arguments of `set_up`.
        apart: Whether the work runs in its own process.
    """

    def __init__(self, set_up: Callable[..., Work], *arguments: Any, apart: bool) -> None:
        given = (torch.get_num_threads(), set_up, arguments)
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _set_up, given) if apart else None
        self._here = None if apart else set_up(*arguments)
        self.result: Any = None

    def seconds(self) -> float:
        """Execute the work; return its seconds, and keep the reduced result in `result`."""
        if self._process:
            seconds, self.result = self._process.submit(_do).result()
        else:
            assert self._here is not None
            seconds, self.result = _timed(*self._here)
        return seconds

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.shutdown()


def _set_up(num_threads: int, set_up: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    global _work
    torch.set_num_threads(num_threads)
    if find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(num_threads)
    _work = set_up(*arguments)


def _do() -> tuple[float, Any]:
    return _timed(*_work)


def _timed(work: Callable[[], Any], look: Callable[[Any], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    return seconds, look(result)
