import pytest
import torch

from datamodules.pools.length_buckets import length_buckets


def batches_of(lengths: torch.Tensor, batch_size: int, seed: int = 0) -> list[torch.Tensor]:
    return length_buckets(lengths, batch_size, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("count", "batch_size"), [(3, 4), (1000, 20), (2017, 20)])
def test_each_place_is_in_one_batch_and_only_one_batch_is_smaller(count: int, batch_size: int) -> None:
    batches = batches_of(torch.randint(1, 50, (count,)), batch_size)
    assert sorted(place for batch in batches for place in batch.tolist()) == list(range(count))
    assert len(batches) == -(-count // batch_size)
    assert sum(len(batch) < batch_size for batch in batches) == (count % batch_size > 0)


def test_little_is_filled_up() -> None:
    lengths = torch.randint(1, 200, (10_000,), generator=torch.Generator().manual_seed(1))
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches_of(lengths, 20))
    assert padded < 1.05 * int(lengths.sum())


def test_batches_are_in_random_order_and_other_ones_each_time() -> None:
    lengths = torch.arange(2000)
    first, second = batches_of(lengths, 20, 0), batches_of(lengths, 20, 1)
    shortest = torch.tensor([int(batch.min()) for batch in first]).float()
    assert abs(float(torch.corrcoef(torch.stack([shortest, torch.arange(100.0)]))[0, 1])) < 0.3
    assert not {tuple(batch.tolist()) for batch in first} & {tuple(batch.tolist()) for batch in second}
    again = batches_of(lengths, 20, 0)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
