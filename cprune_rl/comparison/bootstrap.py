"""Bootstrap of a comparison:

how often each resample has each case, and statistics under such weights.

Two ways are drawn. Over seeds within each problem and floor, as rliable does (Agarwal et al.,
NeurIPS 2021): what these problems
would say on other draws of losses. And in two stages, problems as clusters first and seeds within
each that was drawn: what other
problems would say on other draws. The second is wider and is the one for the headline.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.intervals import Interval

__all__ = ["N_RESAMPLES", "band", "interval", "iqm", "mean", "over_problems", "over_seeds"]

N_RESAMPLES = 2000
_ENDS = (2.5, 97.5)

Array = NDArray[np.float64]
Statistic = Callable[[Array, Array], Array]


def over_problems(
    problem: NDArray[np.int64], stratum: NDArray[np.int64], n: int = N_RESAMPLES, seed: int = 0
) -> Array:
    """Resamples of problems, and of the seeds within each stratum of those that were drawn, anew
    for each time one was.

    Args:
        problem: `(n_cases,)`, of each case, counted from 0.
        stratum: `(n_cases,)`, problem and floor of each case, counted from 0.
        n: resamples.
        seed: of the draws.

    Returns:
        `(n, n_cases)`, how often each resample has each case.
    """
    rng, n_problems = np.random.default_rng(seed), int(problem.max()) + 1
    drawn = rng.multinomial(n_problems, np.full(n_problems, 1 / n_problems), size=n)
    return _within(stratum, drawn[:, problem], rng)


def over_seeds(stratum: NDArray[np.int64], n: int = N_RESAMPLES, seed: int = 0) -> Array:
    """Resamples of the seeds within each stratum, `(n, n_cases)`;

    arguments as of `over_problems`.
    """
    return _within(stratum, np.ones((n, len(stratum)), np.int64), np.random.default_rng(seed))


def _within(
    stratum: NDArray[np.int64], times: NDArray[np.int64], rng: np.random.Generator
) -> Array:
    """Seeds drawn within each stratum, as often as `times (n, n_cases)` says of all of its cases:

    draws of the same chances add up to one draw of all.
    """
    weights = np.empty(times.shape)
    for one in range(int(stratum.max()) + 1):
        members = np.flatnonzero(stratum == one)
        weights[:, members] = rng.multinomial(
            len(members) * times[:, members[0]], np.full(len(members), 1 / len(members))
        )
    return weights


def mean(values: Array, weights: Array) -> Array:
    """Means of `values (..., n_cases)` under `weights (n, n_cases)`:

    `(..., n)`. NaN is left out.
    """
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        found: Array = (np.where(known, values, 0.0) @ weights.T) / (known @ weights.T)
    return found


def iqm(values: Array, weights: Array) -> Array:
    """Interquartile means of `values (n_cases,)` under whole `weights (n, n_cases)`: `(n,)`.

    With weights of 1 this is `scipy.stats.trim_mean(values, 0.25)`. NaN is left out.
    """
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    reached = np.cumsum(weights[:, order], axis=1)
    total = reached[:, -1:]
    cut = np.floor(total / 4)
    kept = np.diff(np.clip(reached, cut, total - cut), axis=1, prepend=cut)
    with np.errstate(invalid="ignore"):
        found: Array = kept @ values[order] / (total - 2 * cut)[:, 0]
    return found


def interval(statistic: Statistic, values: Array, weights: Array) -> Interval:
    """The statistic of `values (n_cases,)` and its 95 % percentile interval."""
    value = float(statistic(values, np.ones((1, len(values))))[0])
    low, high = _percentiles(statistic(values, weights))
    return Interval(value, float(low), float(high))


def band(values: Array, weights: Array) -> Array:
    """Means of `values (k, n_cases)`, and the ends of their 95 % intervals:

    `(3, k)`; NaN where nothing is known.
    """
    return np.stack(
        [mean(values, np.ones((1, values.shape[1])))[:, 0], *_percentiles(mean(values, weights))]
    )


def _percentiles(samples: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # nothing is known of two methods that share no case: NaN says so
        return np.asarray(np.nanpercentile(samples, _ENDS, axis=-1))
