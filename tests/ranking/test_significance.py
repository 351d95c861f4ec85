import numpy as np
import pytest
import torch
from scipy.stats import permutation_test

from ranking.significance import Interval, holm, mean_interval, paired_difference, paired_p_value, paired_p_values


def test_the_interval_of_a_mean_is_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(0).normal(0.3, 2.0, size=4000)
    interval = mean_interval(values)
    half_width = 1.96 * values.std(ddof=1) / np.sqrt(4000)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.05 * half_width)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.05 * half_width)


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    samples = (draw.random((200, 100)) < 0.4).astype(float)
    intervals = [mean_interval(sample, confidence=0.8, num_resamples=500) for sample in samples]
    assert 0.72 < np.mean([interval.low <= 0.4 <= interval.high for interval in intervals]) < 0.88


def test_pairing_by_query_narrows_the_interval_of_a_difference() -> None:
    draw = np.random.default_rng(0)
    difficulty = draw.random(300)
    better, worse = difficulty + 0.02 + 0.01 * draw.normal(size=300), difficulty
    interval = paired_difference(better, worse)
    assert 0 < interval.low < interval.mean < interval.high < 0.03
    assert mean_interval(better).low < mean_interval(worse).high


def test_the_same_seed_gives_the_same_interval_whatever_the_type() -> None:
    values = np.random.default_rng(1).random(40)
    assert mean_interval(values) == mean_interval(torch.from_numpy(values)) == mean_interval(values.tolist())
    assert mean_interval(values) != mean_interval(values, seed=1)


def test_equal_differences_give_an_interval_of_no_width() -> None:
    interval = paired_difference([0.75, 0.5, 1.0], [0.5, 0.25, 0.75])
    assert interval == Interval(mean=0.25, low=0.25, high=0.25)


def test_one_query_gives_an_infinite_interval() -> None:
    assert mean_interval([0.5]) == Interval(mean=0.5, low=-float("inf"), high=float("inf"))


@pytest.mark.parametrize("values", [[], [[0.5, 0.5]], [0.5, float("nan")], [float("inf"), 0.0]])
def test_anything_but_one_finite_number_per_query_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected one finite number per query"):
        mean_interval(values)


def test_different_numbers_of_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="the same queries: 3 values, 2 of the baseline"):
        paired_difference([1.0, 0.0, 1.0], [1.0, 0.0])


def test_the_paired_test_agrees_with_scipys_exact_one() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.random(12), draw.random(12) - 0.15
    exact = permutation_test(
        (first, second), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert paired_p_value(first, second) == pytest.approx(exact.pvalue, abs=0.015)
    assert paired_p_value(first, second) == paired_p_value(second, first)


def test_several_tests_at_once_give_what_each_gives_alone() -> None:
    first, second = np.random.default_rng(1).normal(0.2, 1.0, size=(2, 30, 3))
    together = paired_p_values(first - second)
    assert together == [paired_p_value(first[:, test], second[:, test]) for test in range(3)]


def test_a_paired_test_of_other_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="same queries: 2 values, 3 of the baseline"):
        paired_p_value([1.0, 0.0], [1.0, 0.0, 1.0])


def test_holms_correction_is_that_of_a_hand_computation() -> None:
    # Sorted: .005 x 4 = .02, .01 x 3 = .03, .03 x 2 = .06, .04 x 1 = .04, which may not be below .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
