"""What a single figure hides:

profiles over all cases, gain against cost, and fronts of speed-up and accuracy over floors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.comparison.bootstrap import band, interval, mean, over_problems
from cprune_rl.comparison.cases import EVALUATION_S, TRIAL_S
from cprune_rl.comparison.records import RunRecord
from cprune_rl.comparison.scores import Scores
from cprune_rl.core.intervals import Interval

__all__ = ["COSTS_OVER", "Curve", "Front", "cost_curves", "fronts", "hypervolume", "profiles"]

Array = NDArray[np.float64]
_N_BUDGETS = 32
COSTS_OVER = {
    "fresh_trials": (1.0, 0.0),
    "accuracy_evaluations": (0.0, 1.0),
    "seconds": (TRIAL_S, EVALUATION_S),
}  # what a trial and an evaluation cost of each


@dataclass(frozen=True)
class Curve:
    """A line with its 95 % band over problems and seeds; `(n,)` each."""

    x: Array
    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
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
    """Performance profiles:

    in which share of cases each method reached at least so much of the reference's log gain.

    Args:
        scores: of all methods.
        weights: resamples of the cases.
        n: points from 0 to 1.
    """
    taus = np.linspace(0, 1, n)
    found = {}
    for method, share in zip(scores.methods, scores.share, strict=True):
        reached = np.where(np.isnan(share), np.nan, share >= taus[:, None] - 1e-9)
        found[method] = Curve(taus, *band(reached, weights))
    return found


def cost_curves(scores: Scores, weights: Array, cost: str) -> dict[str, Curve]:
    """Geometric mean speed-up of each method once it has spent so much;

    empty where nothing was spent of that.

    Args:
        scores: of all methods.
        weights: resamples of the cases.
        cost: of `COSTS_OVER`; seconds are those of looks, as live runs had them, and of training a
            policy for the problem alone.
    """
    rows = {m: scores.records_of(m) for m in scores.methods}
    known = [r for of in rows.values() for r in of if r is not None]
    gained = [
        x
        for r in known
        for x, p in zip(_spent(r, cost), r.curve, strict=True)
        if p[2] > 0 and x > 0
    ]
    spent = [_all_spent(r, cost) for r in known]
    if not gained:
        return {}
    ends = min(*gained, max(spent) / 2), max(spent)
    budgets = np.geomspace(*ends, _N_BUDGETS)
    budgets[[0, -1]] = ends  # exactly, so that the last point has every run's end
    found = {}
    for method, of in rows.items():
        reached = np.stack(
            [np.full(_N_BUDGETS, np.nan) if r is None else _reached(r, cost, budgets) for r in of],
            axis=1,
        )
        found[method] = Curve(budgets, *np.exp(band(reached, weights)))
    return found


def _spent(row: RunRecord, cost: str) -> list[float]:
    """By each point of a row's curve."""
    trial, evaluation = COSTS_OVER[cost]
    before = row.cost["policy_s"] if cost == "seconds" else 0.0
    return [
        before + trial * trials + evaluation * evaluations for trials, evaluations, _ in row.curve
    ]


def _all_spent(row: RunRecord, cost: str) -> float:
    """By the end."""
    trial, evaluation = COSTS_OVER[cost]
    return (
        (row.cost["policy_s"] if cost == "seconds" else 0.0)
        + trial * row.cost["fresh_trials"]
        + evaluation * row.cost["accuracy_evaluations"]
    )


def _reached(row: RunRecord, cost: str, budgets: Array) -> Array:
    """Log gain at each budget:

    of the curve so far, and of the plan that was kept once the run is over.
    """
    if not row.holds or row.error is not None:
        return np.zeros(len(budgets))
    gains = np.array([0.0, *(p[2] for p in row.curve)])
    so_far = gains[np.searchsorted(_spent(row, cost), budgets, side="right")]
    return np.where(budgets >= _all_spent(row, cost), row.log_gain, so_far)


def hypervolume(points: Sequence[tuple[float, float]], worst: tuple[float, float]) -> float:
    """Area dominated by points, both coordinates the larger the better.

    Args:
        points: `(speed-up, accuracy)`.
        worst: the corner from which the area is counted; points beyond it add nothing.
    """
    area, height = 0.0, worst[1]
    for speedup, accuracy in sorted(points, reverse=True):
        if speedup > worst[0] and accuracy > height:
            area += (speedup - worst[0]) * (accuracy - height)
            height = accuracy
    return area


def fronts(scores: Scores, weights: Array) -> dict[str, Front]:
    """Speed-up and accuracy of each method at each floor, and the hypervolume over them, on what
    was tried at all floors; a failed run is the dense network.
    """
    floors = tuple(sorted({c.floor for c in scores.cases}, reverse=True))
    worst = 200 * min(floors)
    at_floor = [np.array([c.floor == floor for c in scores.cases]) for floor in floors]
    draws = [(c.problem, c.losses, c.seed) for c in scores.cases]
    kept = {draw: at for at, draw in enumerate(dict.fromkeys(draws))}
    wanted = Counter(kept[draw] for draw in draws)
    is_front = np.array([wanted[kept[draw]] == len(floors) for draw in draws])
    if not is_front.any():  # nothing was tried at all floors: what there is
        is_front[:] = True
    problem = np.zeros(len(kept), dtype=np.int64)
    for draw, number in zip(draws, scores.problem, strict=True):
        problem[kept[draw]] = number
    own_weights = over_problems(problem, problem, len(weights))
    found = {}
    for method, log_gain in zip(scores.methods, scores.log_gain, strict=True):
        points = np.array([np.nan if r is None else _points(r) for r in scores.records_of(method)])
        clouds: dict[int, list[tuple[float, float]]] = {at: [] for at in kept.values()}
        for draw, gain, point, is_wanted in zip(draws, log_gain, points, is_front, strict=True):
            if is_wanted and not np.isnan(gain):
                clouds[kept[draw]].append((float(np.exp(gain)), float(point)))
        areas = np.array(
            [
                hypervolume(cloud, (1.0, worst)) if cloud and len(cloud) == wanted[at] else np.nan
                for at, cloud in clouds.items()
            ]
        )
        speedups = [
            interval(mean, np.where(here & is_front, log_gain, np.nan), weights)
            for here in at_floor
        ]
        found[method] = Front(
            floors,
            tuple(
                Interval(*(float(np.exp(v)) for v in (s.value, s.low, s.high))) for s in speedups
            ),
            tuple(
                interval(mean, np.where(here & is_front, points, np.nan), weights)
                for here in at_floor
            ),
            interval(mean, areas, own_weights),
            worst,
        )
    return found


def _points(row: RunRecord) -> float:
    return 100 * (row.accuracy - row.dense_accuracy) if row.holds and row.error is None else 0.0
