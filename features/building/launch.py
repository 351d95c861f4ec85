"""Launch: the processes that torchrun has started, on one host or several, which build one store together."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from features.building.processes import Work
from ranking.stores.files import StoreError, make_folder
from ranking.stores.writer import check_settings
from registry import ConfigError

# The others wait while one process builds; one that dies closes its connections, which ends the wait.
_PATIENCE = timedelta(days=365)
_SEEN_WITHIN = 120.0
"""Seconds after which a host sees what another one has written into a shared folder, at the latest."""


class Launch:
    """The processes of one torchrun. The first one builds, and the others do their share of its pieces."""

    def __init__(self) -> None:
        dist.init_process_group("gloo", timeout=_PATIENCE)
        self._place, self.num_processes = dist.get_rank(), dist.get_world_size()

    @classmethod
    def of_torchrun(cls) -> "Launch | None":
        """The processes of this launch; None if torchrun has not started several."""
        return cls() if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ else None

    @property
    def is_first(self) -> bool:
        """Whether this process builds."""
        return self._place == 0

    def share_out(
        self,
        work: Work,
        numbers: Sequence[int],
        report: Callable[..., None],
        left: Callable[[], Sequence[int]],
        *,
        gpus: bool,
        settings: dict[str, Any],
        kept_in: Path,
    ) -> None:
        """In the first process: have pieces of work done in all processes, in rounds of one piece each.

        Args:
            work: What to do.
            numbers: Which pieces.
            report: Called after each round with the sums of what its pieces report: texts, tokens, cut texts.
            left: Called after each round; the pieces whose results are not to be seen in the folder yet.
            gpus: Whether GPUs are used if there are any.
            settings: All settings that the result depends on; other hosts compare theirs with them.
            kept_in: The folder of the results.

        Raises:
            StoreError: If results of other hosts do not come to this one, or another process has died.
        """
        _say((work.on("cpu"), list(numbers), gpus, settings, kept_in))
        missing: Sequence[int] = ()
        for counts in self._rounds(work, numbers):
            report(*counts)
            missing = left()
        until = time.monotonic() + _SEEN_WITHIN
        while missing and time.monotonic() < until:
            time.sleep(0.2)
            missing = left()
        if missing:
            problem = f"{len(missing):,} results of other processes are not here: the hosts do not share this folder."
            cure = "give features.path a shared folder, or copy the other hosts' candidates-* into this one"
            raise StoreError(str(kept_in), problem, cure=f"{cure}; then run the command again, it goes on")

    def end(self) -> None:
        """In the first process: let the others end."""
        _say(None)

    def help(self, settings: Callable[[], dict[str, Any]]) -> None:
        """In the other processes: do a share of the first one's pieces whenever it says so, until it ends.

        Args:
            settings: All settings that the result depends on, as this process reads them.

        Raises:
            StoreError: If they differ from the first process's, or another process has died.
            ConfigError: If this host has fewer GPUs than processes, or as the work raises it.
        """
        while (told := _heard()) is not None:
            work, numbers, gpus, expected, kept_in = told
            if os.environ["LOCAL_RANK"] == "0":  # the processes of a host read the same files
                _check_alike(kept_in, expected, settings())
            make_folder(kept_in, "set features.path to a folder that you may write to on all hosts")
            for _ in self._rounds(work.on(_device(gpus)), numbers):
                pass

    def _rounds(self, work: Work, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Do this process's piece of each round; the counts of all processes."""
        for start in range(0, len(numbers), self.num_processes):
            counts = torch.zeros(3, dtype=torch.int64)

            def report(*more: int, counts: torch.Tensor = counts) -> None:
                counts += torch.tensor(more)

            for number in numbers[start : start + self.num_processes][self._place : self._place + 1]:
                work.do(number, report)
            with _telling_of_death():
                dist.all_reduce(counts)
            yield counts.tolist()


def _check_alike(folder: Path, expected: dict[str, Any], found: dict[str, Any]) -> None:
    try:
        check_settings(folder, expected, found)
    except StoreError as error:
        cure = "give all hosts the same config, files and models"
        raise StoreError(str(folder), f"the hosts differ: {error.problem}", cure=cure) from None


def _device(gpus: bool) -> str:
    """The device of this process.

    Raises:
        ConfigError: If this host has fewer GPUs than processes.
    """
    if not (gpus and torch.cuda.is_available()):
        return "cpu"
    place, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if place >= count:
        problem = f"torchrun has started more processes than the {count} GPUs of this host."
        raise ConfigError("--nproc_per_node", problem, cure=f"torchrun --nproc_per_node={count}")
    torch.cuda.set_device(place)
    return f"cuda:{place}"


def _say(what: Any) -> None:
    with _telling_of_death():
        dist.broadcast_object_list([what])


def _heard() -> Any:
    what: list[Any] = [None]
    with _telling_of_death():
        dist.broadcast_object_list(what)
    return what[0]


@contextmanager
def _telling_of_death() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        cure = "see what it printed, and run the command again: it goes on"
        raise StoreError("torchrun", "another process has ended.", cure=cure) from error
