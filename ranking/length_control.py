"""Length control: the win rate of outputs over a reference's, had they been as long as the reference's.

Judges prefer long outputs. AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475) fits a logistic model of preferences,
P(output is preferred) = sigmoid(phi * tanh(d / std(d)) + psi * gamma + theta), with d the reference's length minus the
output's in characters, and gamma the difficulty of the instruction, which the publisher has fitted once on all models.
The length-controlled win rate is the mean of this probability with d = 0. This module does as the package `alpaca_eval`
0.6.6 does (`length_controlled_v1`): an L1 penalty whose strength is chosen by cross-validation, and, as regularization,
the published comparisons of two versions of the reference that were told to be long and to be short.

It is no metric of `ranking.metrics`, because it has no value for one query alone. Its interval is that of refitting the
model to queries drawn with replacement. The penalty is on all weights and so pulls the win rate to a half; with a few
dozen queries this can be all that is left.
"""

import inspect
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ranking.significance import Interval

# As in alpaca_eval: folds, strengths, seed, and how much the comparisons of the told versions count together.
_FOLDS, _STRENGTHS, _SEED, _TOLD_SHARE, _TOLD_VERSIONS = 5, np.logspace(-4, 4, 10), 123, 0.2, 2
_NEARLY_NOTHING = 1e-12


@dataclass(frozen=True)
class Comparisons:
    """R outputs that a judge compared with a reference's output to the same query.

    Args:
        query: The query of each output.
        preference: How probably the judge prefers the output, in [0, 1]; nan if the judge failed: such outputs count in
            the win rate that the model predicts, but not in its fit.
        length_difference: The length of the reference's output minus that of this output, in characters.
        difficulty: The difficulty of the query; None if it is not known, then the model does without this term.
        weight: How much each output counts; all outputs of a query together count 1. None for one output a query.

    Raises:
        ValueError: If there are fewer than five queries, or a preference lies outside [0, 1].
    """

    query: Int[np.ndarray, " R"]
    preference: Float[np.ndarray, " R"]
    length_difference: Float[np.ndarray, " R"]
    difficulty: Float[np.ndarray, " R"] | None = None
    weight: Float[np.ndarray, " R"] | None = None

    def __post_init__(self) -> None:
        if (number := len(np.unique(self.query))) < _FOLDS:
            raise ValueError(f"length control needs at least {_FOLDS} queries, not {number}")
        if ((self.preference < 0) | (self.preference > 1)).any():
            low, high = np.nanmin(self.preference), np.nanmax(self.preference)
            raise ValueError(f"length control needs preferences in [0, 1], these go from {low:g} to {high:g}")

    @property
    def weights(self) -> Float[np.ndarray, " R"]:
        """How much each output counts."""
        return np.ones(len(self.query)) if self.weight is None else self.weight

    @property
    def win_rate(self) -> float:
        """The mean preference, of outputs that have one."""
        judged = ~np.isnan(self.preference)
        return float(np.average(self.preference[judged], weights=self.weights[judged]))

    @property
    def standardised(self) -> Float[np.ndarray, " R"]:
        """The length differences by their standard deviation over the queries; 0 if they are all equal."""
        weights, total = self.weights, self.weights.sum()
        mean = (weights * self.length_difference).sum() / total
        spread = math.sqrt((weights * (self.length_difference - mean) ** 2).sum() / (total - 1))
        # The mean of equal differences differs from them by rounding.
        differ = spread > 1e-9 * np.abs(self.length_difference).max()
        return self.length_difference / spread if differ else np.zeros(len(self.query))

    def resampled(self, number: int, seed: int) -> Iterator["Comparisons"]:
        """Yield comparisons of as many queries, drawn with replacement; equal seeds draw the same queries."""
        queries, row_of = np.unique(self.query, return_inverse=True)
        rows = [np.flatnonzero(row_of == place) for place in range(len(queries))]
        generator = np.random.default_rng(seed)
        for _ in range(number):
            drawn = generator.integers(len(queries), size=len(queries))
            chosen = np.concatenate([rows[place] for place in drawn])
            sizes = [len(rows[place]) for place in drawn]
            yield Comparisons(
                np.repeat(np.arange(len(drawn)), sizes),
                self.preference[chosen],
                self.length_difference[chosen],
                None if self.difficulty is None else self.difficulty[chosen],
                None if self.weight is None else self.weight[chosen],
            )


@dataclass(frozen=True)
class ToldLengths:
    """Published comparisons of the reference with itself told to be long, and told to be short.

    Args:
        preference: As in `Comparisons`.
        standardised: Length differences, standardised within each version.
        difficulty: The difficulty of each query.
    """

    preference: Float[np.ndarray, " N"]
    standardised: Float[np.ndarray, " N"]
    difficulty: Float[np.ndarray, " N"]


@dataclass(frozen=True)
class LengthControl:
    """The fitted model.

    Args:
        win_rate: The length-controlled win rate, in [0, 1].
        standard_error: Of the mean of the predicted preferences, as alpaca_eval gives it; it does not include the error
            of the fit, so it is too small.
        phi: The weight of length.
        psi: The weight of difficulty; None if difficulties are not known.
        theta: The weight of the outputs' quality.
        strength: The inverse strength of the penalty, which cross-validation chose.
    """

    win_rate: float
    standard_error: float
    phi: float
    psi: float | None
    theta: float
    strength: float


def control_length(
    comparisons: Comparisons, told: ToldLengths | None = None, strength: float | None = None
) -> LengthControl:
    """Fit the model and predict the win rate without a difference in length.

    Args:
        comparisons: The outputs of one scorer.
        told: The published comparisons that regularize the fit; None to do without.
        strength: The inverse strength of the penalty; None chooses it by cross-validation.

    Raises:
        ValueError: If fewer than five queries have a preference, or there are published comparisons, but difficulties
            of the outputs' queries are not known.

    Note:
        AlpacaEval prints a hundred times this win rate. On one machine both give the same; between machines both can
        differ by some tenths of a point, because GroupKFold deals out groups of equal size in an order that depends on
        how NumPy sorts there, and several strengths are about equally likely.

    Example:
        >>> query, long = np.arange(40), np.tile([-900.0, 100.0], 20)
        >>> preference = np.tile([0.9, 0.5], 20)  # the long ones win more often, though they are no better
        >>> found = control_length(Comparisons(query, preference, long))
        >>> round(found.win_rate, 2), found.phi < 0
        (0.59, True)
    """
    judged = np.unique(comparisons.query[~np.isnan(comparisons.preference)])
    if len(judged) < _FOLDS:
        raise ValueError(f"length control needs preferences for at least {_FOLDS} queries, not {len(judged)}")
    data = _Data.of(comparisons, told)
    return _fitted(comparisons, data, _best_strength(data) if strength is None else strength)


def resampled_win_rates(
    comparisons: Comparisons, told: ToldLengths | None, strength: float, *, num_resamples: int = 200, seed: int = 0
) -> Float[np.ndarray, " N"]:
    """The length-controlled win rates of models that are fitted to queries drawn with replacement.

    Two scorers of the same queries and seed get the same draws, so that their differences are paired.

    Args:
        comparisons: The outputs of one scorer.
        told: As in `control_length`.
        strength: The strength that `control_length` has chosen.
        num_resamples: How often queries are drawn.
        seed: Makes the drawing reproducible.
    """
    drawn = comparisons.resampled(num_resamples, seed)
    return np.array([_fitted(each, _Data.of(each, told), strength).win_rate for each in drawn])


def percentile_interval(value: float, draws: Float[np.ndarray, " N"], *, confidence: float = 0.95) -> Interval:
    """The value with the percentile interval of its bootstrap draws (Efron 1979).

    Example:
        >>> percentile_interval(0.5, np.arange(5.0), confidence=0.5)
        Interval(mean=0.5, low=1.0, high=3.0)
    """
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class _Data:
    """What the regression reads: rows of published comparisons, then rows of outputs."""

    features: Float[np.ndarray, "N F"]
    preference: Float[np.ndarray, " N"]
    weight: Float[np.ndarray, " N"]
    group: Int[np.ndarray, " N"]

    @classmethod
    def of(cls, comparisons: Comparisons, told: ToldLengths | None) -> "_Data":
        judged = ~np.isnan(comparisons.preference)
        features = _features(comparisons, comparisons.standardised)[judged]
        preference, weight = comparisons.preference[judged], comparisons.weights[judged]
        _, group = np.unique(comparisons.query[judged], return_inverse=True)
        if told is None:
            return cls(features, preference, weight, group)
        if comparisons.difficulty is None:
            raise ValueError("the published comparisons are of use only where the queries' difficulties are known")
        known = ~np.isnan(told.preference)
        number = int(known.sum())
        others = np.column_stack([np.tanh(told.standardised), told.difficulty, np.zeros(len(known))])[known]
        return cls(
            np.concatenate([others, features]),
            np.concatenate([told.preference[known], preference]),
            np.concatenate([np.full(number, _TOLD_SHARE / _TOLD_VERSIONS), weight]),
            np.concatenate([np.arange(number), number + group]),
        )

    def doubled(self, rows: Any) -> tuple[Any, Any, Any]:
        """Each row once as won and once as lost, with the probability of each as its weight."""
        preference, weight = self.preference[rows], self.weight[rows]
        features, won = self.features[rows], np.ones(len(preference))
        weights = np.concatenate([preference * weight, (1 - preference) * weight])
        if not (preference * weight).any() or not ((1 - preference) * weight).any():
            # liblinear leaves out rows without weight, and takes the only class left for that of the won ones.
            weights = weights.clip(min=_NEARLY_NOTHING)
        return np.concatenate([features, features]), np.concatenate([won, 0 * won]), weights


def _features(comparisons: Comparisons, standardised: Float[np.ndarray, " R"]) -> Float[np.ndarray, "R F"]:
    columns = [np.tanh(standardised), comparisons.difficulty, np.ones(len(standardised))]
    return np.column_stack([column for column in columns if column is not None])


def _fitted(comparisons: Comparisons, data: _Data, strength: float) -> LengthControl:
    model = _regression(data, slice(None), strength)
    predicted = model.predict_proba(_features(comparisons, np.zeros(len(comparisons.query))))[:, 1]
    weight = comparisons.weights
    _, place = np.unique(comparisons.query, return_inverse=True)
    each = np.bincount(place, weight * predicted) / np.bincount(place, weight)
    phi, *psi, theta = model.coef_[0].tolist()
    error = each.std(ddof=1) / math.sqrt(len(each))
    mean = float(np.average(predicted, weights=weight))
    return LengthControl(mean, float(error), phi, psi[0] if psi else None, theta, strength)


def _best_strength(data: _Data) -> float:
    """The strength with the highest mean likelihood on held-out groups."""
    from sklearn.model_selection import GroupKFold

    # Both rows of a comparison are in the same fold.
    group = np.concatenate([data.group, data.group])
    number = len(data.group)
    scores = np.zeros(len(_STRENGTHS))
    for train, held_out in GroupKFold(_FOLDS).split(group, groups=group):
        train, held_out = train[train < number], held_out[held_out < number]
        draw = np.random.RandomState(_SEED)  # one for all strengths, as LogisticRegressionCV has it
        for place, strength in enumerate(_STRENGTHS):
            model = _regression(data, train, strength, draw)
            chance = model.predict_proba(data.features[held_out])[:, 1].clip(1e-15, 1 - 1e-15)
            target = data.preference[held_out]
            likelihood = target * np.log(chance) + (1 - target) * np.log(1 - chance)
            scores[place] += (data.weight[held_out] * likelihood).mean()
    return float(_STRENGTHS[scores.argmax()])


def _regression(data: _Data, rows: Any, strength: float, draw: np.random.RandomState | int = _SEED) -> Any:
    # These take a second to import, so only those pay who fit.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # scikit-learn 1.8 has given the penalty another name, and warns of the old one.
    old = inspect.signature(LogisticRegression).parameters["penalty"].default != "deprecated"
    penalty: dict[str, Any] = {"penalty": "l1"} if old else {"l1_ratio": 1}
    features, won, weight = data.doubled(rows)
    with warnings.catch_warnings():
        # alpaca_eval allows a hundred iterations, as scikit-learn does by default; with more the values would differ.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, solver="liblinear", fit_intercept=False, random_state=draw, **penalty)
        return model.fit(features, won, sample_weight=weight)
