"""Bootstrap of a comparison: how often each resample has each case, and statistics under that.

Resamples are drawn in two ways. Over seeds within each problem and floor, as rliable does (Agarwal
et al., NeurIPS 2021): what other draws of losses would say of these problems. And in two stages,
problems as clusters first, then seeds within each that was drawn: what other problems would say.
The second is wider, and is the one for the headline.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.intervals import Interval

__all__ = [
    "N_RESAMPLES",
    "band",
    "exp_interval",
    "interval",
    "iqm",
    "mean",
    "resample_problems",
    "resample_seeds",
]

N_RESAMPLES = 2000
_ENDS = (2.5, 97.5)  # percentiles

Array = NDArray[np.float64]
Statistic = Callable[[Array, Array], Array]


def resample_problems(
    problem: NDArray[np.int64], stratum: NDArray[np.int64], n: int = N_RESAMPLES, seed: int = 0
) -> Array:
    """Resample problems, then seeds within each stratum, anew for each time a problem was drawn.

    Args:
        problem: `(n_cases,)`, of each case, counted from 0.
        stratum: `(n_cases,)`, problem and floor of each case, counted from 0.
        n: resamples.
        seed: of the draws.

    Returns:
        `(n, n_cases)`, how often each resample has each case.
    """
    rng = np.random.default_rng(seed)
    n_problems = int(problem.max()) + 1
    counts = rng.multinomial(n_problems, np.full(n_problems, 1 / n_problems), size=n)
    return _resample_strata(stratum, counts[:, problem], rng)


def resample_seeds(stratum: NDArray[np.int64], n: int = N_RESAMPLES, seed: int = 0) -> Array:
    """Resample the seeds within each stratum; arguments and result as of `resample_problems`."""
    counts = np.ones((n, len(stratum)), np.int64)
    return _resample_strata(stratum, counts, np.random.default_rng(seed))


def _resample_strata(
    stratum: NDArray[np.int64], counts: NDArray[np.int64], rng: np.random.Generator
) -> Array:
    """Draw seeds within each stratum, as often as `counts (n, n_cases)` has it.

    Draws of the same chances add up to one draw of all.
    """
    weights = np.empty(counts.shape)
    for one in range(int(stratum.max()) + 1):
        members = np.flatnonzero(stratum == one)
        n_draws = len(members) * counts[:, members[0]]
        weights[:, members] = rng.multinomial(n_draws, np.full(len(members), 1 / len(members)))
    return weights


def mean(values: Array, weights: Array) -> Array:
    """Compute the means of `values (..., n_cases)` under `weights (n, n_cases)`: `(..., n)`.

    NaN is left out.
    """
    is_known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: Array = (np.where(is_known, values, 0.0) @ weights.T) / (is_known @ weights.T)
    return means


def iqm(values: Array, weights: Array) -> Array:
    """Compute the interquartile means of `values (n_cases,)` under `weights (n, n_cases)`: `(n,)`.

    With weights of 1 this is `scipy.stats.trim_mean(values, 0.25)`, which knows no weights. Weights
    are whole; NaN is left out.
    """
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    reached = np.cumsum(weights[:, order], axis=1)
    total = reached[:, -1:]
    cut = np.floor(total / 4)
    kept = np.diff(np.clip(reached, cut, total - cut), axis=1, prepend=cut)
    with np.errstate(invalid="ignore"):
        means: Array = kept @ values[order] / (total - 2 * cut)[:, 0]
    return means


def interval(statistic: Statistic, values: Array, weights: Array) -> Interval:
    """Compute the statistic of `values (n_cases,)` and its 95 % percentile interval."""
    value = float(statistic(values, np.ones((1, len(values))))[0])
    low, high = _percentiles(statistic(values, weights))
    return Interval(value, float(low), float(high))


def exp_interval(logarithms: Interval) -> Interval:
    """Turn the interval of a mean logarithm into that of a geometric mean."""
    ends = np.exp([logarithms.value, logarithms.low, logarithms.high])
    return Interval(*map(float, ends))


def band(values: Array, weights: Array) -> Array:
    """Compute the means of `values (k, n_cases)` and the ends of their 95 % intervals.

    Returns:
        `(3, k)`; NaN where nothing is known.
    """
    means = mean(values, np.ones((1, values.shape[1])))[:, 0]
    return np.stack([means, *_percentiles(mean(values, weights))])


def _percentiles(samples: Array) -> Array:
    with warnings.catch_warnings():
        # Of two methods that share no case nothing is known, and NaN says so.
        warnings.simplefilter("ignore")
        return np.asarray(np.nanpercentile(samples, _ENDS, axis=-1))
