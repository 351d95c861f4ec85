"""EpochLoader: a DataLoader whose batches are a function of (epoch, step), so it can resume within an epoch."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import DataLoader, Dataset, Sampler

from ranking.batch import Batch


@runtime_checkable
class BatchSource(Protocol):
    """An object that makes the batch of a given epoch and step."""

    def num_steps(self) -> int:
        """The number of steps per epoch."""
        ...

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of one step; equal arguments give equal batches."""
        ...


class EpochLoader(DataLoader):
    """Loads the batches of a `BatchSource`, in this process or in workers, and records the current step.

    Lightning sets the epoch with `sampler.set_epoch` and saves `state_dict` in its checkpoints.

    Args:
        source: Makes the batches.
        num_workers: Number of processes that prepare batches in advance; 0 is fastest if a batch is one gather.
        pin_memory: Put batches into pinned memory, from which copies to a GPU are faster.
    """

    def __init__(self, source: BatchSource, *, num_workers: int = 0, pin_memory: bool = False) -> None:
        self._steps = _Steps(source.num_steps())
        super().__init__(
            _ByStep(source),
            sampler=self._steps,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """The remaining batches of the epoch."""
        steps = self._steps
        steps.done = steps.start()
        for batch in super().__iter__():
            steps.done += 1
            yield batch
        steps.resume_at = None

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and how many of its batches have been returned."""
        return {"epoch": self._steps.epoch, "step": self._steps.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step at which `state_dict` was called."""
        self._steps.resume_at = (int(state["epoch"]), int(state["step"]))


class _Steps(Sampler[tuple[int, int]]):
    def __init__(self, num_steps: int) -> None:
        self.num_steps, self.epoch, self.done = num_steps, 0, 0
        self.resume_at: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def start(self) -> int:
        if self.resume_at is None or self.resume_at[0] != self.epoch or self.resume_at[1] >= self.num_steps:
            return 0
        return self.resume_at[1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, step) for step in range(self.start(), self.num_steps))

    def __len__(self) -> int:
        return self.num_steps


class _ByStep(Dataset[Batch]):
    def __init__(self, source: BatchSource) -> None:
        self._source = source

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return self._source.batch(*key)
