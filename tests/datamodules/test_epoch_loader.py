import pytest
import torch

from datamodules.epoch_loader import EpochLoader
from ranking.batch import Batch


class Counted:
    """Batches that say which step of which epoch they are."""

    def num_steps(self) -> int:
        return 7

    def batch(self, epoch: int, step: int) -> Batch:
        shape = (1, 2)
        return Batch(
            torch.zeros(shape), torch.ones(shape).bool(), torch.tensor([100 * epoch + step]), torch.zeros(shape).long()
        )


def steps(loader: EpochLoader, count: int | None = None) -> list[int]:
    found = []
    for batch in loader:
        found.append(int(batch.group))
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_steps_of_an_epoch_come_in_order_from_any_number_of_workers(num_workers: int) -> None:
    loader = EpochLoader(Counted(), num_workers=num_workers)
    assert len(loader) == 7
    for epoch in (0, 3):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert steps(loader) == [100 * epoch + step for step in range(7)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("done", [1, 4, 6])
def test_a_loader_goes_on_where_another_stopped(num_workers: int, done: int) -> None:
    stopped = EpochLoader(Counted(), num_workers=num_workers)
    stopped.sampler.set_epoch(2)  # type: ignore[attr-defined]
    assert steps(stopped, done) == [200 + step for step in range(done)]
    assert stopped.state_dict() == {"epoch": 2, "step": done}

    loader = EpochLoader(Counted(), num_workers=num_workers)
    loader.load_state_dict(stopped.state_dict())
    loader.sampler.set_epoch(2)  # type: ignore[attr-defined]
    assert steps(loader) == [200 + step for step in range(done, 7)]
    assert loader.state_dict() == {"epoch": 2, "step": 7}
    loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    assert steps(loader) == [300 + step for step in range(7)]


def test_a_state_from_the_end_of_an_epoch_begins_the_next_one() -> None:
    loader = EpochLoader(Counted())
    loader.load_state_dict({"epoch": 2, "step": 7})
    loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    assert steps(loader) == [300 + step for step in range(7)]


def test_a_state_counts_on_from_where_it_was_loaded() -> None:
    loader = EpochLoader(Counted())
    loader.load_state_dict({"epoch": 0, "step": 3})
    assert steps(loader, 2) == [3, 4]
    assert loader.state_dict() == {"epoch": 0, "step": 5}
