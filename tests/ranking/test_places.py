"""Places of scores against counts in plain Python, one pair of candidates at a time."""

import pytest
import torch
from torch import Tensor

from ranking.places import Places


def random_scores(num_scores: int) -> tuple[Tensor, Tensor]:
    """Scores of 30 groups of 9 candidates, nan where the mask is False; the first group is empty."""
    draw = torch.Generator().manual_seed(num_scores)
    scores = torch.randint(num_scores, (30, 9), generator=draw).float()
    mask = torch.rand(scores.shape, generator=draw) < 0.8
    mask[0] = False
    return scores.masked_fill(~mask, torch.nan), mask


@pytest.mark.parametrize("num_scores", [1, 3, 1000])
def test_places_count_existing_candidates_that_score_higher_or_the_same(num_scores: int) -> None:
    scores, mask = random_scores(num_scores)
    places = Places.of_scores(scores, mask)
    assert places.above.dtype == places.tied.dtype == torch.float64
    for row, (given, there) in enumerate(zip(scores, mask, strict=True)):
        exist = given[there].tolist()
        assert places.above[row, there].tolist() == [sum(other > score for other in exist) for score in exist]
        assert places.tied[row, there].tolist() == [exist.count(score) - 1 for score in exist]
    assert bool((places.above[~mask] == torch.inf).all()) and not bool(places.tied[~mask].any())


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 0.0])
def test_scores_of_masked_candidates_never_matter(garbage: float) -> None:
    scores, mask = random_scores(3)
    expected = Places.of_scores(scores.masked_fill(~mask, 5.0), mask)
    for found, values in zip(Places.of_scores(scores.masked_fill(~mask, garbage), mask), expected, strict=True):
        assert torch.equal(found, values)


def test_infinite_scores_are_valid_and_tie_with_scores_that_float32_rounds_to_them() -> None:
    scores = torch.tensor([[-torch.inf, -1e300, -1e38, 1e300, torch.inf, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, True, True, False]])
    places = Places.of_scores(scores, mask)
    assert places.above.tolist() == [[3, 3, 2, 0, 0, torch.inf]] and places.tied.tolist() == [[1, 1, 0, 1, 1, 0]]


@pytest.mark.filterwarnings("error")
def test_scores_may_be_those_of_a_transposed_matrix() -> None:
    scores, mask = random_scores(3)
    expected = Places.of_scores(scores.T.contiguous(), mask.T.contiguous())
    for found, values in zip(Places.of_scores(scores.T, mask.T), expected, strict=True):
        assert torch.equal(found, values)


def test_long_lists_need_no_matrix_of_all_pairs() -> None:
    order = torch.randperm(100_000, generator=torch.Generator().manual_seed(0))
    places = Places.of_scores(-(order // 4).float().unsqueeze(0), torch.ones(1, 100_000, dtype=torch.bool))
    assert torch.equal(places.above[0], (order // 4 * 4).double()) and bool((places.tied == 3).all())


def test_a_nan_score_is_refused_with_its_row() -> None:
    scores, mask = torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool)
    scores[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"nan, so they have no order \(rows 1 of the batch\)"):
        Places.of_scores(scores, mask)


def test_candidates_below_the_depth_have_no_place() -> None:
    places = Places(torch.tensor([[9.0, 10.0, 500.0]]), torch.tensor([[3.0, 0.0, 2.0]])).to_depth(10)
    assert places.above.tolist() == [[9, torch.inf, torch.inf]] and places.tied.tolist() == [[3, 0, 0]]
