"""Intervals by SciPy's bootstrap, of latencies, speed-ups and rankings; Wilson's of accuracies."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap, spearmanr

__all__ = [
    "Correct",
    "Counts",
    "Interval",
    "accuracy_interval",
    "median_interval",
    "noise_floor",
    "rank_correlation",
    "speedup_interval",
]

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """How many images a network is right on, where nobody says on which.

    It answers what an array of one boolean for each image answers without their order.

    Attributes:
        n_correct: from 0 to `n_images`.
        n_images: 1 or more.
    """

    n_correct: int
    n_images: int

    def __len__(self) -> int:
        return self.n_images

    def sum(self) -> int:
        """Number of images that are right."""
        return self.n_correct

    def mean(self) -> float:
        """Share of images that are right, in [0, 1]."""
        return self.n_correct / self.n_images


Correct: TypeAlias = NDArray[np.bool_] | Counts
"""Which images `(n,)` a network is right on, or how many where that is all that is known."""


@dataclass(frozen=True)
class Interval:
    """A point estimate with its interval, of 95 % unless stated otherwise.

    Attributes:
        value: the point estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


def accuracy_interval(right: Correct, confidence: float = 0.95) -> Interval:
    """Share of images that are classified correctly, with Wilson's interval."""
    wilson = binomtest(int(right.sum()), len(right)).proportion_ci(confidence, "wilson")
    return Interval(float(right.mean()), float(wilson.low), float(wilson.high))


def median_interval(samples: Samples) -> Interval:
    """Median of samples `(n,)`."""
    return _interval((samples,), lambda x, axis=-1: np.median(x, axis=axis))


def speedup_interval(dense: Samples, pruned: Samples) -> Interval:
    """Speed-up, from rounds in which both were timed.

    Args:
        dense: `(n_rounds,)` latencies.
        pruned: `(n_rounds,)` latencies of the same rounds.
    """

    def speedup(dense: Samples, pruned: Samples, axis: int = -1) -> Samples:
        return np.asarray(np.median(dense, axis=axis) / np.median(pruned, axis=axis))

    return _interval((dense, pruned), speedup)


def noise_floor(first: Samples, second: Samples) -> float:
    """How far two timings of the same thing may differ, as a share.

    A difference below it is no difference.

    Args:
        first: `(n_rounds,)` latencies of a library.
        second: `(n_rounds,)` latencies of the same library under another name, in the same rounds.

    Returns:
        The end of the 95 % interval of their ratio that is farther from 1, less 1.
    """
    ratio = speedup_interval(first, second)
    return max(ratio.high, 1 / ratio.low) - 1


def rank_correlation(first: Samples, second: Samples) -> Interval:
    """Spearman's rank correlation of paired values, `(n,)` each; 0 where one is constant."""

    def correlation(first: Samples, second: Samples) -> float:
        if len(set(first)) < 2 or len(set(second)) < 2:
            return 0.0
        return float(spearmanr(first, second).statistic)

    low, high = _bootstrap((first, second), correlation, vectorized=False, n_resamples=1000)
    return Interval(correlation(first, second), low, high)


def _interval(data: tuple[Samples, ...], statistic: Callable[..., Samples]) -> Interval:
    value = float(statistic(*data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # samples that are all equal: the interval is the value
        low, high = _bootstrap(data, statistic, vectorized=True, n_resamples=2000)
    return Interval(value, low if np.isfinite(low) else value, high if np.isfinite(high) else value)


def _bootstrap(
    data: tuple[Samples, ...],
    statistic: Callable[..., object],
    *,
    vectorized: bool,
    n_resamples: int,
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of paired samples."""
    interval = bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=vectorized,
        method="percentile",
        n_resamples=n_resamples,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)
