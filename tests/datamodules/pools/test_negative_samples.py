from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from datamodules.pools.mining import MinedLists
from datamodules.pools.negative_samples import FromMined, _sample
from datamodules.pools.negatives import Draw, places_in


def test_every_set_of_numbers_that_are_free_is_as_likely() -> None:
    taken, free = np.array([0, 3, 4, 8]), [1, 2, 5, 6, 7]
    drawn = [tuple(sorted(_sample(np.random.default_rng(seed), 9, taken, 3).tolist())) for seed in range(6000)]
    sets = list(combinations(free, 3))
    counts = [drawn.count(each) for each in sets]
    assert sum(counts) == 6000
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("taken", [[], [0], [2], [0, 1, 2]])
def test_all_that_is_free_is_drawn_where_it_is_not_more_than_asked_for(taken: list[int]) -> None:
    drawn = _sample(np.random.default_rng(0), 3, np.array(taken, dtype=np.int64), 5)
    assert sorted(drawn.tolist()) == sorted({0, 1, 2} - set(taken))


def test_places_are_those_of_equal_values() -> None:
    assert places_in(torch.tensor([2, 5, 7]), torch.tensor([7, 1, 2, 9, 5])).tolist() == [2, -1, 0, -1, 1]
    assert places_in(torch.tensor([], dtype=torch.int64), torch.tensor([7])).tolist() == [-1]


@pytest.mark.parametrize(("right", "kept"), [(0.4, [3, 4, 5, 6]), (0.0, [4, 5, 6]), (-0.2, [6])])
def test_mined_candidates_nearly_as_good_as_the_right_one_are_left_out_whatever_its_sign(
    right: float, kept: list[int]
) -> None:
    scores, query, positive = torch.tensor([[0.5, 0.39, 0.2, -0.02, -0.19, -0.3]]), torch.tensor([0]), torch.tensor([0])
    mined = MinedLists(query, torch.arange(1, 7).unsqueeze(0).int(), scores, positive, torch.tensor([right]), 9)
    draw = Draw(query, torch.tensor([0]), positive, split=0, parts=torch.tensor([0]))
    assert FromMined(mined, margin=0.9, count=9)(draw)[1].tolist() == kept
