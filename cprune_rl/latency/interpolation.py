"""Latencies of a network's tasks, interpolated between those that were measured.

Each kind of task has a non-negative fit of `launch + work * in * out + reads * in + writes * out`,
in relative error. The nearest measured shapes correct it. Where a scheme prunes the layer, the
multiplications that are left replace `in * out`.

Policies train on these latencies, because a device is far too slow for that. Environments estimate
with them what an action would gain; what an action did gain is measured. `predictor` answers for
kinds of task that were never measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload

__all__ = ["LatencyInterpolator"]

_REACH = 0.25  # log distance in channels over which a measured shape corrects its neighbours
_FIT_WEIGHT = 0.25  # of a correction of 1: far from every measured shape the fit stands alone
_LEAST_FIT_S = 1e-12

Kind = tuple[object, ...]
# Channels read and written, and the multiplications left in a pruned layer: 0 in a dense one.
Shape = tuple[int, int, int]
Point = tuple[Shape, TaskCost]


class LatencyInterpolator:
    """Interpolates task latencies over channel counts.

    Args:
        measured: tasks to start with.
    """

    def __init__(self, measured: Iterable[tuple[Workload, TaskCost]] = ()) -> None:
        self._measured: dict[str, tuple[Workload, TaskCost]] = {}
        self._points: dict[Kind, dict[str, Point]] = {}
        self._fits: dict[Kind, _Fit] = {}
        self._answers: dict[str, TaskCost] = {}  # valid until something is learnt
        self._leave_one_out_error: float | None = None
        for workload, cost in measured:
            self.learn(workload, cost)

    def learn(self, workload: Workload, cost: TaskCost) -> None:
        """Adds a measured task. A failed one teaches nothing."""
        if cost.error is not None or not math.isfinite(cost.latency_s):
            return
        if workload.key in self._measured and self._measured[workload.key][1] == cost:
            return
        kind = _kind(workload)
        self._measured[workload.key] = (workload, cost)
        self._points.setdefault(kind, {})[workload.key] = (_shape(workload), cost)
        self._fits.pop(kind, None)
        self._answers.clear()
        self._leave_one_out_error = None

    def measured_tasks(self) -> list[tuple[Workload, TaskCost]]:
        """Everything learnt, in the order of learning."""
        return list(self._measured.values())

    def predict(self, workloads: Iterable[Workload]) -> list[TaskCost]:
        """The measured cost of each task where there is one, else an interpolated one.

        A kind of task that was never measured takes infinitely long.
        """
        answers = self._answers
        costs = []
        for workload in workloads:  # agents ask for hundreds at each step
            cost = answers.get(workload.key)
            if cost is None:
                cost = answers[workload.key] = self._cost(workload)
            costs.append(cost)
        return costs

    @property
    def leave_one_out_error(self) -> float:
        """Root mean square of log ratios, each measured task predicted by the others of its kind.

        Returns:
            0.05 for 5 %; 0 where every task is alone of its kind. Remembered until it learns more.
        """
        if self._leave_one_out_error is None:
            squares = [e**2 for points in self._points.values() for e in _left_out_errors(points)]
            self._leave_one_out_error = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
        return self._leave_one_out_error

    def _cost(self, workload: Workload) -> TaskCost:
        if workload.key in self._measured:
            return self._measured[workload.key][1]
        kind = _kind(workload)
        if kind not in self._points:
            return TaskCost(latency_s=math.inf, is_measured=False)
        if kind not in self._fits:
            self._fits[kind] = _Fit.from_points(list(self._points[kind].values()))
        return self._fits[kind].predict(_shape(workload))


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """A fit to the measured tasks of one kind.

    Attributes:
        costs: of the measured tasks.
        coefficients: of `_terms`.
        log_shapes: of the measured tasks, `(n, 3)`.
        residuals: log of measured over fitted latency, `(n,)`.
    """

    costs: Sequence[TaskCost]
    coefficients: NDArray[np.float64]
    log_shapes: NDArray[np.float64]
    residuals: NDArray[np.float64]

    @staticmethod
    def from_points(points: Sequence[Point]) -> _Fit:
        coefficients = _fit(points)
        residuals = []
        for shape, cost in points:
            fitted_s = max(float(_terms(shape) @ coefficients), _LEAST_FIT_S)
            residuals.append(math.log(cost.latency_s / fitted_s))
        return _Fit(
            costs=[cost for _, cost in points],
            coefficients=coefficients,
            log_shapes=np.array([_log_shape(shape) for shape, _ in points]),
            residuals=np.array(residuals),
        )

    def predict(self, shape: Shape) -> TaskCost:
        """The fit at a shape, corrected by its neighbours; the nearest lends its tiling."""
        distances = np.abs(self.log_shapes - _log_shape(shape)).sum(axis=1)
        weights = np.exp(-distances / _REACH)
        correction = float(weights @ self.residuals / (weights.sum() + _FIT_WEIGHT))
        latency_s = float(_terms(shape) @ self.coefficients) * math.exp(correction)
        nearest = self.costs[int(distances.argmin())]
        return TaskCost(
            latency_s=latency_s,
            tile_factors=nearest.tile_factors,
            is_measured=False,
            lanes=nearest.lanes,
        )


def _left_out_errors(points: dict[str, Point]) -> Iterable[float]:
    """Log ratio of predicted over measured latency of each task of a kind, left out of the fit."""
    for key, (shape, cost) in points.items():
        others = [point for other, point in points.items() if other != key]
        if not others:
            return
        predicted_s = _Fit.from_points(others).predict(shape).latency_s
        if predicted_s > 0:
            yield math.log(predicted_s / cost.latency_s)


def _kind(workload: Workload) -> Kind:
    return (workload.family, workload.operator)


def _shape(workload: Workload) -> Shape:
    return (
        workload.channels_in,
        workload.channels_out,
        workload.macs if workload.is_block_sparse else 0,
    )


def _log_shape(shape: Shape) -> NDArray[np.float64]:
    return np.array([math.log(length or 1) for length in shape])


def _terms(shape: Shape) -> NDArray[np.float64]:
    channels_in, channels_out, left = shape
    work = left or channels_in * channels_out
    return np.array([1.0, work, channels_in, channels_out], dtype=float)


def _fit(points: Sequence[Point]) -> NDArray[np.float64]:
    latencies = np.array([cost.latency_s for _, cost in points])
    rows = np.stack([_terms(shape) for shape, _ in points])
    scale = rows.max(axis=0)  # columns of like size, or the solver drops the small ones
    solution, _ = nnls(rows / scale / latencies[:, None], np.ones(len(points)))
    return np.asarray(solution / scale)
