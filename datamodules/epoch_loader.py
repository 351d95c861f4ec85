"""EpochLoader: a DataLoader whose batches are a function of (epoch, step), so that it can go on in mid-epoch."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import DataLoader, Dataset, Sampler

from ranking.batch import Batch


@runtime_checkable
class BatchSource(Protocol):
    """Whatever can make the batch of one step of one epoch."""

    def num_steps(self) -> int:
        """Steps an epoch."""
        ...

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of one step; always the same for the same arguments."""
        ...


class EpochLoader(DataLoader):
    """Loads the batches of a `BatchSource`, in this process or in workers, and remembers how far it has come.

    Lightning sets the epoch through `sampler.set_epoch` and keeps `state_dict` in its checkpoints.

    Args:
        source: Makes the batches.
        num_workers: Processes that prepare batches ahead; 0 is fastest while a batch is one gather.
        pin_memory: Put batches where a GPU can fetch them by itself.
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
        """The rest of the epoch."""
        steps = self._steps
        steps.done = steps.start()
        for batch in super().__iter__():
            steps.done += 1
            yield batch
        steps.resume_at = None

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and how many of its steps have been handed out."""
        return {"epoch": self._steps.epoch, "step": self._steps.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
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
