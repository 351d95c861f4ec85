"""Length control against what the package `alpaca_eval` gives for the same comparisons."""

from typing import Any

import numpy as np
import pytest

from ranking.length_control import (
    Comparisons,
    LengthControl,
    ToldLengths,
    control_length,
    percentile_interval,
    resampled_win_rates,
)

Made = tuple[Comparisons, ToldLengths]


def wave(kind: int, seed: int, number: int) -> Any:
    """Numbers in [0, 1) without pattern, that alpaca_eval's process made again for its values below."""
    return np.modf(np.abs(np.sin(np.arange(1, number + 1) * (12.9898 + kind) + 78.233 * seed) * 43758.5453))[0]


def made(number: int, quality: float, seed: int) -> Made:
    """Comparisons of one model, one without a preference, and those of two versions told to be long and short."""
    difficulty = 4 * wave(0, seed, number) - 2
    preferences, lengths = [], []
    for place, (shift, size) in enumerate([(0.2, -2.5), (-0.3, 2.0)]):
        length = size * (wave(10 + place, seed, number) - 0.2)
        chance = 1 / (1 + np.exp(-(-1.6 * np.tanh(length) + 0.8 * difficulty + shift)))
        preferences.append(np.clip(chance + 0.6 * (wave(20 + place, seed, number) - 0.5), 0, 1))
        lengths.append(length)
    told = ToldLengths(np.concatenate(preferences), np.concatenate(lengths), np.tile(difficulty, 2))
    reference = (200 + 3000 * wave(1, seed, number)).astype(int)
    output = (100 + 4000 * wave(2, seed, number) ** 2).astype(int)
    logit = -1.5 * np.tanh((reference - output) / 1200) + 0.9 * difficulty + quality
    preference = np.round(np.clip(1 / (1 + np.exp(-logit)) + 0.8 * (wave(3, seed, number) - 0.5), 0, 1), 6)
    preference[5], preference[9] = 0.5, np.nan
    return Comparisons(np.arange(number), preference, (reference - output).astype(float), difficulty), told


# alpaca_eval 0.6.6 with scikit-learn 1.9.1, `get_length_controlled_winrate` on annotations and a df_gamed.csv of these
# numbers, a preference of 0.5 written as 0. For each data set: win_rate, length_controlled_winrate, lc_standard_error,
# and of its LogisticRegressionCV the strength C and the coefficients.
PEER = {
    (80, -0.7, 1): (
        (32.75937721518987, 33.88961038729074, 1.3304918220510271),
        (21.54434690031882, -1.3273758890318752, 0.4913627063066124, -0.6552325252454405),
    ),
    (60, 0.5, 2): (
        (52.60535254237288, 56.573216305907806, 2.1379724831742006),
        (2.782559402207126, -1.2488872797627775, 0.6852937057900885, 0.37561077108654284),
    ),
    (200, -2.0, 3): (
        (23.43061407035176, 22.82864741560053, 0.7081243114937578),
        (1291.5496650148827, -0.9477346282817847, 0.515820327051063, -1.2972072333150437),
    ),
}
# The same with `glm_info`: the formula without instruction_difficulty, and no regularization to the baseline.
PLAIN_PEER = [
    (80, -0.7, 1, 33.76908496647758, 1291.5496650148827, -1.1908433170589512, -0.6736016104161484),
    (60, 0.5, 2, 56.939734524691524, 10000.0, -1.0237152888073382, 0.2793927623107812),
    (200, -2.0, 3, 23.086985389286962, 10000.0, -0.7563086963590051, -1.2034060472080526),
]


@pytest.mark.parametrize(
    ("data", "rates", "fit"), [(data, *values) for data, values in PEER.items()], ids=map(str, PEER)
)
def test_the_published_model_gives_what_alpaca_eval_gives(
    data: tuple[int, float, int], rates: tuple[float, ...], fit: tuple[float, ...]
) -> None:
    comparisons, told = made(*data)
    found = control_length(comparisons, told, strength=fit[0])
    ours = (comparisons.win_rate, found.win_rate, found.standard_error)
    assert [100 * rate for rate in ours] == pytest.approx(rates, abs=1e-6)
    assert (found.strength, found.phi, found.psi, found.theta) == pytest.approx(fit, rel=1e-5)
    # Folds depend on the machine and the version of scikit-learn, and so can the strength.
    chosen = control_length(comparisons, told)
    assert chosen.strength >= 1 and 100 * chosen.win_rate == pytest.approx(rates[1], abs=1.5)


@pytest.mark.parametrize(("number", "quality", "seed", "controlled", "strength", "phi", "theta"), PLAIN_PEER)
def test_the_model_without_difficulties_gives_what_alpaca_eval_gives_for_its_formula(
    number: int, quality: float, seed: int, controlled: float, strength: float, phi: float, theta: float
) -> None:
    comparisons, _ = made(number, quality, seed)
    plain = Comparisons(comparisons.query, comparisons.preference, comparisons.length_difference)
    found = control_length(plain, strength=strength)
    assert 100 * control_length(plain).win_rate == pytest.approx(controlled, abs=0.5)
    assert 100 * found.win_rate == pytest.approx(controlled, abs=1e-6)
    assert (found.strength, found.phi, found.theta) == pytest.approx((strength, phi, theta), rel=1e-5)
    assert found.psi is None


def test_outputs_as_long_as_the_references_keep_their_win_rate() -> None:
    preference = 0.4 * wave(3, 1, 60)
    found = control_length(Comparisons(np.arange(60), preference, np.full(60, 40.0)))
    assert found.win_rate == pytest.approx(preference.mean(), abs=2e-3) and found.phi == 0


def test_equal_differences_in_length_explain_nothing_whatever_the_weights() -> None:
    query, preference, weight = np.repeat(np.arange(40), 3), 0.8 * wave(3, 1, 120), np.full(120, 1 / 3)
    for difference in (0.0, 7.0, 100.0, 913.0):
        comparisons = Comparisons(query, preference, np.full(120, difference), weight=weight)
        assert not comparisons.standardised.any()
        assert control_length(comparisons).phi == 0


def test_a_scorer_that_always_loses_or_always_wins_keeps_that_win_rate(capfd: pytest.CaptureFixture[str]) -> None:
    query, difference = np.arange(40), 1000 * wave(2, 1, 40) - 500
    for preference in (0.0, 1.0):
        comparisons = Comparisons(query, np.full(40, preference), difference)
        found = control_length(comparisons)
        assert found.win_rate == pytest.approx(preference, abs=0.01)
        draws = resampled_win_rates(comparisons, None, found.strength, num_resamples=5)
        np.testing.assert_allclose(draws, preference, atol=0.01)
    once = np.where(query == 7, 1.0, 0.0)  # of the five folds, one has nothing to learn of winning
    assert control_length(Comparisons(query, once, difference)).win_rate < 0.2
    assert capfd.readouterr() == ("", "")


def test_outputs_that_share_a_query_share_its_weight() -> None:
    alone, _ = made(60, 0.5, 2)
    assert alone.difficulty is not None
    columns = (alone.query, alone.preference, alone.length_difference, alone.difficulty)
    shared = Comparisons(*(np.repeat(column, 2) for column in columns), weight=np.tile([0.25, 0.75], 60))
    assert shared.win_rate == pytest.approx(alone.win_rate)
    np.testing.assert_allclose(shared.standardised[::2], alone.standardised)
    expected, found = control_length(alone, strength=10.0), control_length(shared, strength=10.0)
    assert (found.win_rate, found.standard_error, found.phi, found.psi) == pytest.approx(
        (expected.win_rate, expected.standard_error, expected.phi, expected.psi), rel=1e-3
    )


def test_intervals_come_from_models_of_drawn_queries_and_are_paired() -> None:
    comparisons, told = made(80, -0.7, 1)
    found = control_length(comparisons, told)
    draws = resampled_win_rates(comparisons, told, found.strength, num_resamples=100, seed=3)
    interval = percentile_interval(found.win_rate, draws)
    assert interval.low < found.win_rate < interval.high
    # The interval of plain resampling of preferences is about as wide.
    plain = np.nanstd(comparisons.preference) / np.sqrt(80)
    assert 0.3 * plain < draws.std() < 2 * plain
    queries = [[each.length_difference.tolist() for each in comparisons.resampled(3, seed)] for seed in (0, 0, 1)]
    assert queries[0] == queries[1] != queries[2]
    assert all(len(np.unique(each.query)) == 80 for each in comparisons.resampled(3, 0))


def test_what_cannot_be_fitted_is_refused() -> None:
    few = np.arange(4)
    with pytest.raises(ValueError, match="length control needs at least 5 queries, not 4"):
        Comparisons(few, few / 4, few.astype(float))
    with pytest.raises(ValueError, match=r"length control needs preferences in \[0, 1\], these go from 0 to 4"):
        Comparisons(np.arange(5), np.arange(5.0), np.arange(5.0))
    rare = np.where(np.arange(60) < 3, 0.5, np.nan)
    with pytest.raises(ValueError, match="length control needs preferences for at least 5 queries, not 3"):
        control_length(Comparisons(np.arange(60), rare, np.arange(60.0)))
    comparisons, told = made(60, 0.5, 2)
    without = Comparisons(comparisons.query, comparisons.preference, comparisons.length_difference)
    with pytest.raises(ValueError, match="of use only where the queries' difficulties are known"):
        control_length(without, told)
    assert isinstance(control_length(without), LengthControl)
