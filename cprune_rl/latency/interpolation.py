"""Latencies of one network's tasks that were not measured, interpolated between those that were.

For each kind of task a non-negative fit of `launch + work * in * out + reads * in + writes * out`
in
relative error, corrected by the nearest measured shapes; where a layer is pruned by a scheme, the
multiplications that
are left stand for `in * out`. An agent trains on it (a device is far too slow for that) and an
environment estimates with
it what an action would gain; what an action did gain is always measured. Every prediction says that
it is one. A kind of
task that was never measured is for `predictor`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cprune_rl.core.network import Network, Plan, Workload
from cprune_rl.core.protocols import LatencySource, Spending, TaskCost, least_trials_needed

__all__ = ["InterpolatedLatency", "LatencyInterpolator", "ModelledCosts", "NoisyCosts"]

Shape = tuple[
    int, int, int
]  # channels read and written, and the multiplications that are left of a pruned layer; 0 of a dense one
Point = tuple[Shape, TaskCost]
_REACH = 0.25  # log distance in channels over which a measured shape corrects its neighbours
_NOISE_TABLE = np.random.default_rng(0).standard_normal(4096)


class LatencyInterpolator:
    """Interpolates task latencies over channel counts.

    Args:
        known: measured tasks.
    """

    def __init__(self, known: Iterable[tuple[Workload, TaskCost]] = ()) -> None:
        self._points: dict[tuple[object, ...], dict[str, Point]] = {}
        self._fits: dict[tuple[object, ...], _Fit] = {}
        self._answers: dict[str, TaskCost] | None = (
            None  # measured ones, and those interpolated since something was last learnt
        )
        self.known: dict[str, TaskCost] = {}
        self._workloads: dict[str, Workload] = {}
        for workload, cost in known:
            self.learn(workload, cost)

    def learn(self, workload: Workload, cost: TaskCost) -> None:
        """Adds a measured task; one without a program teaches nothing."""
        if (
            cost.error is not None
            or not math.isfinite(cost.latency_s)
            or self.known.get(workload.key) == cost
        ):
            return
        kind = _kind(workload)
        self.known[workload.key] = cost
        self._workloads[workload.key] = workload
        self._points.setdefault(kind, {})[workload.key] = (_shape(workload), cost)
        self._fits.pop(kind, None)
        self._answers = None

    def measured(self) -> list[tuple[Workload, TaskCost]]:
        """Everything learnt, in the order of learning."""
        return [(self._workloads[key], cost) for key, cost in self.known.items()]

    def predict(self, workload: Workload) -> TaskCost:
        """The measured cost where there is one, else an interpolated one;

        infinite for a kind never seen.
        """
        return self.predict_all((workload,))[0]

    def predict_all(self, workloads: Iterable[Workload]) -> list[TaskCost]:
        """The same of many: an agent asks for hundreds at each step."""
        if self._answers is None:
            self._answers = dict(self.known)
        answers, found = self._answers, []
        for workload in workloads:
            cost = answers.get(workload.key)
            if cost is None:
                cost = answers[workload.key] = self._interpolate(workload)
            found.append(cost)
        return found

    def _interpolate(self, workload: Workload) -> TaskCost:
        kind = _kind(workload)
        if kind not in self._points:
            return TaskCost(math.inf, is_measured=False)
        if kind not in self._fits:
            self._fits[kind] = _Fit.of(list(self._points[kind].values()))
        return self._fits[kind].at(_shape(workload))


@dataclass(frozen=True)
class _Fit:
    """What is known of one kind of task.

    Attributes:
        costs: measured.
        coefficients: of `_terms`.
        logs: log channels of the measured, and log multiplications of pruned layers, `(n, 3)`.
        residuals: log of what was measured over the fit, `(n,)`.
    """

    costs: Sequence[TaskCost]
    coefficients: NDArray[np.float64]
    logs: NDArray[np.float64]
    residuals: NDArray[np.float64]

    @staticmethod
    def of(points: Sequence[Point]) -> _Fit:
        coefficients = _fit(points)
        logs = np.array([_logs(shape) for shape, _ in points])
        residuals = [
            math.log(c.latency_s / max(float(_terms(shape) @ coefficients), 1e-12))
            for shape, c in points
        ]
        return _Fit([c for _, c in points], coefficients, logs, np.array(residuals))

    def at(self, shape: Shape) -> TaskCost:
        """Interpolated."""
        distance = np.abs(self.logs - _logs(shape)).sum(axis=1)
        weight = np.exp(-distance / _REACH)
        correction = float(
            weight @ self.residuals / (weight.sum() + 0.25)
        )  # 0.25: far from every point the fit stands alone
        latency = float(_terms(shape) @ self.coefficients) * math.exp(correction)
        nearest = self.costs[int(distance.argmin())]
        return TaskCost(latency, nearest.tile_factors, is_measured=False, lanes=nearest.lanes)


def _kind(workload: Workload) -> tuple[object, ...]:
    return (workload.family, workload.operator)


def _shape(workload: Workload) -> Shape:
    return (
        workload.channels_in,
        workload.channels_out,
        workload.macs if workload.is_block_sparse else 0,
    )


def _logs(shape: Shape) -> NDArray[np.float64]:
    return np.array([math.log(length or 1) for length in shape])


def _terms(shape: Shape) -> NDArray[np.float64]:
    channels_in, channels_out, work = shape
    return np.array(
        [1.0, work or channels_in * channels_out, channels_in, channels_out], dtype=float
    )


def _fit(points: Sequence[Point]) -> NDArray[np.float64]:
    latencies = np.array([c.latency_s for _, c in points])
    rows = np.stack([_terms(shape) for shape, _ in points])
    scale = rows.max(axis=0)  # columns of like size, or the solver drops the small ones
    solution, _ = nnls(rows / scale / latencies[:, None], np.ones(len(points)))
    return np.asarray(solution / scale)


class InterpolatedLatency:
    """A measured source whose cheap looks are interpolated from everything it has measured.

    Args:
        network: whose plans are asked for.
        source: true looks.
        model: learns from every true look.
    """

    def __init__(self, network: Network, source: LatencySource, model: LatencyInterpolator) -> None:
        self._network, self._source, self._model = network, source, model
        self._failed: dict[str, TaskCost] = {}  # what cannot be measured must not look cheap

    @property
    def spending(self) -> Spending:
        """Running totals of the measured source."""
        return self._source.spending

    def measure(self, plan: Plan) -> list[TaskCost]:
        """True looks (see `protocols.LatencySource`)."""
        costs = self._source.measure(plan)
        for workload, cost in zip(self._network.workloads(plan), costs, strict=True):
            self._model.learn(workload, cost)
            if cost.error is not None or not math.isfinite(cost.latency_s):
                self._failed[workload.key] = cost
            else:
                self._failed.pop(workload.key, None)
        return costs

    def trials_needed(self, plan: Plan) -> int:
        """See `protocols.least_trials_needed`, of the measured source."""
        return least_trials_needed(self._source, self._network, plan)

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Cheap looks (see `protocols.LatencySource`); a task that failed is told as it failed."""
        return (
            [self._failed.get(w.key) or self._model.predict(w) for w in workloads]
            if self._failed
            else self._model.predict_all(workloads)
        )


class ModelledCosts:
    """A source that is all model: recorded tasks where there are any, interpolation between them.

    Args:
        network: whose plans are asked for.
        model: the recorded tasks.
    """

    def __init__(self, network: Network, model: LatencyInterpolator) -> None:
        self._network, self._model = network, model
        self.spending = Spending()

    def measured(self) -> list[tuple[Workload, TaskCost]]:
        """Every recorded task."""
        return self._model.measured()

    def measure(self, plan: Plan) -> list[TaskCost]:
        """The same as `predict`: a recording has no device behind it."""
        return self.predict(self._network.workloads(plan))

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Recorded or interpolated costs, each saying which."""
        return self._model.predict_all(workloads)


class NoisyCosts:
    """A modelled source as a device would be: what it answers is off from what was predicted.

    Training on it teaches a policy what deployment is like, where a candidate's gain is an estimate
    until
    it is taken. The deviation of a task depends on the task and the seed alone.

    Args:
        network: whose plans are asked for.
        base: the predictions.
        seed: one for each episode.
        sigma: standard deviation of the log deviation.
    """

    def __init__(self, network: Network, base: LatencySource, seed: int, sigma: float) -> None:
        self._network, self._base, self._seed, self._sigma = network, base, seed, sigma
        self._measured: dict[str, TaskCost] = {}
        self.spending = Spending()

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Costs with this episode's deviation."""
        workloads = self._network.workloads(plan)
        for workload in workloads:
            if workload.key not in self._measured:
                cost = self._base.predict([workload])[0]
                deviation = _NOISE_TABLE[
                    zlib.crc32(workload.key.encode(), self._seed) % len(_NOISE_TABLE)
                ]
                self._measured[workload.key] = replace(
                    cost,
                    latency_s=cost.latency_s * math.exp(self._sigma * deviation),
                    is_measured=True,
                )
        return [self._measured[w.key] for w in workloads]

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """What was measured in this episode, else the prediction."""
        measured = self._measured
        return [
            measured.get(w.key) or cost
            for w, cost in zip(workloads, self._base.predict(workloads), strict=True)
        ]
