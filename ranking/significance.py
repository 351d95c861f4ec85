"""Intervals: how far a mean over queries, or a difference of two, could be off by the choice of the queries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

# Values held at once while resampling: 64 MiB of float64.
_BUDGET = 2**23


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Args:
        mean: The mean over all queries.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def mean_interval(
    values: ArrayLike, *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of a mean over queries (Efron 1979), by drawing queries with replacement.

    Args:
        values: One number per query.
        confidence: How probably the interval holds the true mean, in (0, 1).
        num_resamples: How often queries are drawn.
        seed: Makes the drawing reproducible.

    Raises:
        ValueError: If there is no value, or one that is not finite.

    Note:
        A single query tells nothing about others: its interval is infinite.

    Example:
        >>> mean_interval([0.0, 1.0, 1.0, 0.0])
        Interval(mean=0.5, low=0.0, high=1.0)
    """
    from scipy.stats import bootstrap  # takes a second to import, so only those pay who want an interval

    values = _one_per_query(values)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, -float("inf"), float("inf"))
    interval = bootstrap(
        (values,),
        np.mean,
        vectorized=True,
        n_resamples=num_resamples,
        batch=max(1, _BUDGET // len(values)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(interval.low), float(interval.high))


def paired_difference(
    values: ArrayLike, baseline: ArrayLike, *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Interval of how much better one ranker does than another on the same queries (paired bootstrap).

    Args:
        values: One number per query.
        baseline: The other ranker's, in the same order of queries.
        confidence: As in `mean_interval`.
        num_resamples: As in `mean_interval`.
        seed: As in `mean_interval`.

    Raises:
        ValueError: If the two do not have the same queries, or as in `mean_interval`.

    Example:
        >>> paired_difference([0.5, 0.9, 0.7], [0.25, 0.65, 0.45]).low > 0
        True
    """
    values, baseline = _one_per_query(values), _one_per_query(baseline)
    if len(values) != len(baseline):
        raise ValueError(
            f"a paired comparison needs the same queries: {len(values)} values, {len(baseline)} of the baseline"
        )
    return mean_interval(values - baseline, confidence=confidence, num_resamples=num_resamples, seed=seed)


def paired_p_value(values: ArrayLike, baseline: ArrayLike, *, num_resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a paired randomization test: how often random signs give a mean difference as large.

    Under the null hypothesis the two rankers could be exchanged on any query (Fisher 1935; Smucker et al. 2007). The
    observed signs count as one draw (Phipson and Smyth 2010), so that the p-value is never 0.

    Args:
        values: One number per query.
        baseline: The other ranker's, in the same order of queries.
        num_resamples: How often signs are drawn.
        seed: Makes the drawing reproducible.

    Raises:
        ValueError: As in `paired_difference`.

    Example:
        >>> paired_p_value([0.5, 0.9, 0.7], [0.5, 0.9, 0.7])
        1.0
    """
    values, baseline = _one_per_query(values), _one_per_query(baseline)
    if len(values) != len(baseline):
        raise ValueError(f"a paired test needs the same queries: {len(values)} values, {len(baseline)} of the baseline")
    return paired_p_values((values - baseline)[:, None], num_resamples=num_resamples, seed=seed)[0]


def paired_p_values(
    differences: Float[np.ndarray, "Q T"], *, num_resamples: int = 10_000, seed: int = 0
) -> list[float]:
    """The p-value of `paired_p_value` for each of T tests on the same queries, with the same random signs for all.

    Args:
        differences: One ranker's values minus the other's, a column a test.
        num_resamples: How often signs are drawn.
        seed: Makes the drawing reproducible.

    Example:
        >>> [round(p, 2) for p in paired_p_values(np.array([[0.0, 0.5], [0.0, 0.5]]))]
        [1.0, 0.5]
    """
    draw = np.random.default_rng(seed)
    observed, extreme = np.abs(differences.sum(axis=0)), np.zeros(differences.shape[1], dtype=np.int64)
    chunk = max(1, _BUDGET // len(differences))
    for start in range(0, num_resamples, chunk):
        signs = draw.integers(0, 2, size=(min(chunk, num_resamples - start), len(differences)), dtype=np.int8) * 2 - 1
        extreme += (np.abs(signs @ differences) >= observed - 1e-12).sum(axis=0)
    return ((1 + extreme) / (1 + num_resamples)).tolist()


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted so that one false finding among all has the stated probability (Holm 1979).

    The i-th smallest of m p-values is multiplied by m - i + 1; none is made smaller than the one before it.

    Args:
        p_values: One p-value per test, in [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _one_per_query(values: ArrayLike) -> Float[np.ndarray, " Q"]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"expected one finite number per query, and at least one query; got shape {array.shape}")
    return array
