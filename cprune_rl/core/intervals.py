"""Intervals of latencies, speed-ups and rankings, by SciPy's bootstrap; of accuracies, Wilson's."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap, spearmanr

__all__ = [
    "Interval",
    "accuracy_interval",
    "median_interval",
    "noise_floor",
    "rank_correlation",
    "speedup_interval",
]


@dataclass(frozen=True)
class Interval:
    """A value and its interval, of 95 % where nothing else is said.

    Attributes:
        value: the point estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


def accuracy_interval(right: NDArray[np.bool_], confidence: float = 0.95) -> Interval:
    """Share of images `(n,)` that are classified rightly, with Wilson's interval."""
    found = binomtest(int(right.sum()), len(right)).proportion_ci(confidence, "wilson")
    return Interval(float(right.mean()), float(found.low), float(found.high))


def median_interval(samples: NDArray[np.float64]) -> Interval:
    """Median of samples `(n,)`."""
    return _interval((samples,), lambda x, axis=-1: np.median(x, axis=axis))


def speedup_interval(dense: NDArray[np.float64], pruned: NDArray[np.float64]) -> Interval:
    """How many times faster, from rounds in which both were timed.

    Args:
        dense: `(n_rounds,)` latencies.
        pruned: `(n_rounds,)` latencies of the same rounds.
    """
    return _interval(
        (dense, pruned), lambda d, p, axis=-1: np.median(d, axis=axis) / np.median(p, axis=axis)
    )


def noise_floor(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """How far two timings of the same thing may differ, as a share:

    a difference below it is no difference.

    Args:
        first: `(n_rounds,)` latencies of a library.
        second: `(n_rounds,)` latencies of the same library under another name, in the same rounds.

    Returns:
        The end of the 95 % interval of their ratio that is farther from 1, less 1.
    """
    found = speedup_interval(first, second)
    return max(found.high, 1 / found.low) - 1


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> Interval:
    """Spearman's rank correlation of paired values, `(n,)` each;

    0 where one of them is constant.
    """

    def statistic(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        if len(set(a)) < 2 or len(set(b)) < 2:
            return 0.0
        return float(spearmanr(a, b).statistic)

    found = bootstrap(
        (first, second),
        statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        rng=np.random.default_rng(0),
    )
    return Interval(
        statistic(first, second),
        float(found.confidence_interval.low),
        float(found.confidence_interval.high),
    )


def _interval(data: tuple[NDArray[np.float64], ...], statistic: object) -> Interval:
    value = float(statistic(*data))  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # samples that are all equal: the interval is the value
        found = bootstrap(
            data,
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=2000,
            rng=np.random.default_rng(0),
        )
    low, high = found.confidence_interval
    return Interval(
        value,
        float(low) if np.isfinite(low) else value,
        float(high) if np.isfinite(high) else value,
    )
