import pytest
import torch
from scipy import stats

from ranking.vectors import permutation
from ranking.vectors.permutation import Permutation


@pytest.fixture(params=["kept", "computed"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, whatever the size; computed ones a few at a time."""
    if request.param == "computed":
        monkeypatch.setattr(permutation, "_KEPT", 0)
        monkeypatch.setattr(permutation, "_AT_ONCE", 100)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 31, 97, 1000])
def test_each_index_goes_to_a_place_of_its_own_and_comes_back(size: int) -> None:
    index = torch.arange(size)
    for seed in range(3):
        order = Permutation(size, seed)
        assert order(index).sort().values.tolist() == index.tolist()
        assert order.inverse(order(index)).tolist() == index.tolist()
        assert torch.equal(order(index), Permutation(size, seed)(index))


def test_some_indices_go_where_they_go_with_all_others() -> None:
    order, some = Permutation(1000, 1), torch.tensor([7, 999, 7, 0])
    assert torch.equal(order(some), order(torch.arange(1000))[some])
    assert order(some[:0]).tolist() == []


def test_every_pair_of_places_is_as_likely_for_every_pair_of_indices() -> None:
    size, draws, cells = 1000, 1000, 5
    for pair in (torch.tensor([0, 1]), torch.tensor([512, 0]), torch.tensor([999, 998])):
        found = torch.stack([Permutation(size, seed)(pair) for seed in range(draws)]) * cells // size
        counts = torch.bincount(found[:, 0] * cells + found[:, 1], minlength=cells**2)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_neighbours_are_strangers_afterwards() -> None:
    size, cells = 30_000, 10
    for seed in range(3):
        cell = Permutation(size, seed)(torch.arange(size)) * cells // size
        counts = torch.bincount(cell[:-1] * cells + cell[1:], minlength=cells**2)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4
