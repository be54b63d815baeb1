"""What one figure hides: profiles over all cases, gain against cost, and fronts over floors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.comparison.bootstrap import (
    band,
    exp_interval,
    interval,
    mean,
    resample_problems,
)
from cprune_rl.comparison.records import RunRecord
from cprune_rl.comparison.statistics import Scores
from cprune_rl.core.intervals import Interval
from cprune_rl.envs.problems.replay import EVALUATION_S, TRIAL_S

__all__ = ["COSTS_OVER", "Curve", "Front", "cost_curves", "fronts", "hypervolume", "profiles"]

Array = NDArray[np.float64]
_N_BUDGETS = 32
# What a trial and an evaluation cost of each.
COSTS_OVER = {
    "fresh_trials": (1.0, 0.0),
    "accuracy_evaluations": (0.0, 1.0),
    "seconds": (TRIAL_S, EVALUATION_S),
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line with its 95 % band over problems and seeds; `(n,)` each."""

    x: Array
    value: Array
    low: Array
    high: Array

    @staticmethod
    def from_band(x: Array, band: Array) -> Curve:
        """Make a curve of `x (n,)` and a band `(3, n)`: value, low, high."""
        value, low, high = band
        return Curve(x=x, value=value, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Front:
    """What a method reaches at each floor.

    Attributes:
        floors: deepest last.
        speedup: geometric mean at each.
        points: mean change of accuracy at each, in percentage points, negative where some is lost.
        hypervolume: mean area that is dominated, speed-up times points, from a speed-up of 1 and
            `worst` points on.
        worst: twice the deepest floor, in points.
    """

    floors: tuple[float, ...]
    speedup: tuple[Interval, ...]
    points: tuple[Interval, ...]
    hypervolume: Interval
    worst: float


def profiles(scores: Scores, weights: Array, n: int = 101) -> dict[str, Curve]:
    """Compute performance profiles: in which share of cases a method reached at least a share.

    Args:
        scores: of all methods.
        weights: resamples of the cases.
        n: points from 0 to 1.
    """
    shares = np.linspace(0, 1, n)
    curves = {}
    for method, share in zip(scores.methods, scores.share, strict=True):
        reached = np.where(np.isnan(share), np.nan, share >= shares[:, None] - 1e-9)
        curves[method] = Curve.from_band(shares, band(reached, weights))
    return curves


def cost_curves(scores: Scores, weights: Array, cost: str) -> dict[str, Curve]:
    """Compute the geometric mean speed-up of each method once it has spent so much.

    Args:
        scores: of all methods.
        weights: resamples of the cases.
        cost: of `COSTS_OVER`; seconds are those of measuring and evaluating, as live runs had
            them, and of training a policy for the problem alone.

    Returns:
        Nothing where nothing was spent of that.
    """
    records = {method: scores.records_of(method) for method in scores.methods}
    finished = [r for of_method in records.values() for r in of_method if r is not None]
    budgets = _budgets(finished, cost)
    if budgets is None:
        return {}
    unknown = np.full(_N_BUDGETS, np.nan)
    curves = {}
    for method, of_method in records.items():
        gains = [unknown if r is None else _gains(r, cost, budgets) for r in of_method]
        speedups = np.exp(band(np.stack(gains, axis=1), weights))
        curves[method] = Curve.from_band(budgets, speedups)
    return curves


def _budgets(records: Sequence[RunRecord], cost: str) -> Array | None:
    """Choose budgets from the first gain of any run to the end of the last."""
    gaining = [
        spent
        for record in records
        for spent, (_, _, gain) in zip(_spent(record, cost), record.curve, strict=True)
        if gain > 0 and spent > 0
    ]
    if not gaining:
        return None
    last = max(_total_spent(record, cost) for record in records)
    first = min(*gaining, last / 2)
    budgets = np.geomspace(first, last, _N_BUDGETS)
    # Exactly, so that the last point has every run's end.
    budgets[[0, -1]] = first, last
    return budgets


def _spent(record: RunRecord, cost: str) -> list[float]:
    """Compute what was spent by each point of a record's curve."""
    return [_price(record, cost, point[:2]) for point in record.curve]


def _total_spent(record: RunRecord, cost: str) -> float:
    spent = record.cost["fresh_trials"], record.cost["accuracy_evaluations"]
    return _price(record, cost, spent)


def _price(record: RunRecord, cost: str, spent: tuple[float, float]) -> float:
    """Price trials and evaluations, and what was spent before them."""
    trials, evaluations = spent
    of_trial, of_evaluation = COSTS_OVER[cost]
    before = record.cost["policy_s"] if cost == "seconds" else 0.0
    return before + of_trial * trials + of_evaluation * evaluations


def _gains(record: RunRecord, cost: str, budgets: Array) -> Array:
    """Compute the log gain at each budget: of the curve so far, and of the kept plan at the end."""
    if not record.holds or record.error is not None:
        return np.zeros(len(budgets))
    gains = np.array([0.0, *(gain for _, _, gain in record.curve)])
    so_far = gains[np.searchsorted(_spent(record, cost), budgets, side="right")]
    return np.where(budgets >= _total_spent(record, cost), record.log_gain, so_far)


def hypervolume(points: Sequence[tuple[float, float]], worst: tuple[float, float]) -> float:
    """Compute the area that points dominate, both coordinates the larger the better.

    Args:
        points: `(speed-up, accuracy)`.
        worst: the corner from which the area is counted; points beyond it add nothing.
    """
    area = 0.0
    height = worst[1]
    for speedup, accuracy in sorted(points, reverse=True):
        if speedup > worst[0] and accuracy > height:
            area += (speedup - worst[0]) * (accuracy - height)
            height = accuracy
    return area


def fronts(scores: Scores, weights: Array) -> dict[str, Front]:
    """Compute the front of each method over the floors, and its hypervolume.

    What was tried at all floors counts; a failed run is the dense network.
    """
    floors = tuple(sorted({case.floor for case in scores.cases}, reverse=True))
    draws: dict[tuple[str, str, int], list[int]] = {}
    for at, case in enumerate(scores.cases):
        draws.setdefault((case.problem, case.losses, case.seed), []).append(at)
    whole = [cases for cases in draws.values() if len(cases) == len(floors)]
    # Where nothing was tried at all floors, what there is counts.
    whole = whole or list(draws.values())
    case_floors = np.array([case.floor for case in scores.cases])
    is_whole = np.zeros(len(scores.cases), dtype=bool)
    is_whole[[at for cases in whole for at in cases]] = True
    of_floor = [is_whole & (case_floors == floor) for floor in floors]
    problem = np.array([scores.problem[cases[0]] for cases in draws.values()])
    draw_weights = resample_problems(problem, problem, len(weights))
    worst = 200 * min(floors)
    result = {}
    for method, log_gain in zip(scores.methods, scores.log_gain, strict=True):
        points = np.array([_points(record) for record in scores.records_of(method)])
        areas = np.full(len(draws), np.nan)
        for at, cases in enumerate(draws.values()):
            if is_whole[cases[0]] and np.isfinite(log_gain[cases]).all():
                cloud = zip(np.exp(log_gain[cases]), points[cases], strict=True)
                areas[at] = hypervolume(list(cloud), (1.0, worst))
        gains = [interval(mean, _only(log_gain, floor), weights) for floor in of_floor]
        result[method] = Front(
            floors=floors,
            speedup=tuple(map(exp_interval, gains)),
            points=tuple(interval(mean, _only(points, floor), weights) for floor in of_floor),
            hypervolume=interval(mean, areas, draw_weights),
            worst=worst,
        )
    return result


def _only(values: Array, is_wanted: NDArray[np.bool_]) -> Array:
    return np.where(is_wanted, values, np.nan)


def _points(record: RunRecord | None) -> float:
    """Change of accuracy in percentage points; none where the dense network is kept."""
    if record is None:
        return np.nan
    if not record.holds or record.error is not None:
        return 0.0
    return 100 * (record.accuracy - record.dense_accuracy)
