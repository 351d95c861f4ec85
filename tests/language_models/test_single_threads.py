import threading

import pytest
import torch

from language_models.single_threads import in_single_threads


@pytest.fixture
def two_threads() -> None:
    torch.set_num_threads(2)


def test_parts_are_computed_in_order_by_one_thread_each(two_threads: None) -> None:
    both = threading.Barrier(2, timeout=30)

    def work(part: int) -> tuple[int, int]:
        both.wait()  # passes only if two parts are computed at the same time
        return part, torch.get_num_threads()

    assert in_single_threads(work, range(4)) == [(part, 1) for part in range(4)]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_the_number_of_threads_comes_back_after_an_error(two_threads: None) -> None:
    def fail(part: int) -> None:
        raise ValueError(part)

    for parts in ([1], [1, 2]):
        with pytest.raises(ValueError, match="1"):
            in_single_threads(fail, parts)
        assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
