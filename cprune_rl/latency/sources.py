"""Sources of latencies that stand on another source, or on none.

`core.protocols.LatencySource` is their contract.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import LatencySource, Spending, TaskCost, least_trials_needed
from cprune_rl.core.workload import Workload
from cprune_rl.latency.interpolation import LatencyInterpolator

__all__ = ["InterpolatedLatency", "LatencyNoise", "OverriddenLatency"]

# Equal on every machine; a generator for each task would take longer than its prediction.
_DEVIATES = np.random.default_rng(0).standard_normal(4096)


@dataclass(frozen=True)
class LatencyNoise:
    """How far measurements deviate from predictions: log-normally, once for each task and seed.

    A policy that trains with noise learns that a gain is an estimate until it is measured.

    Attributes:
        seed: one for each episode.
        sigma: standard deviation of the log factor.
    """

    seed: int
    sigma: float

    def factor(self, key: str) -> float:
        """What multiplies the latency of a task."""
        return math.exp(
            self.sigma * _DEVIATES[zlib.crc32(key.encode(), self.seed) % len(_DEVIATES)]
        )


class InterpolatedLatency:
    """Predicts by interpolation between the tasks that it has measured.

    Args:
        network: whose plans are asked for.
        interpolator: learns from every measurement.
        source: measures. None: what is interpolated stands for what would be measured.
        noise: of the measurements, where there is no source; None for none.
    """

    def __init__(
        self,
        network: Network,
        interpolator: LatencyInterpolator,
        source: LatencySource | None = None,
        noise: LatencyNoise | None = None,
    ) -> None:
        self._network = network
        self._interpolator = interpolator
        self._source = source
        self.noise = noise
        self._spending = Spending()
        # What the interpolator must not answer: failures, or they would look fast, and noisy costs.
        self._answers: dict[str, TaskCost] = {}

    @property
    def spending(self) -> Spending:
        """Running totals of the source."""
        return self._spending if self._source is None else self._source.spending

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Asks the source and learns from it; without a source, interpolates."""
        workloads = self._network.workloads(plan)
        if self._source is None:
            return self._simulate(workloads)
        costs = self._source.measure(plan)
        for workload, cost in zip(workloads, costs, strict=True):
            self._interpolator.learn(workload, cost)
            if cost.error is not None or not math.isfinite(cost.latency_s):
                self._answers[workload.key] = cost
            else:
                self._answers.pop(workload.key, None)
        return costs

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Costs that were measured, else interpolated ones."""
        costs = self._interpolator.predict(workloads)
        if not self._answers:
            return costs
        return [self._answers.get(w.key, c) for w, c in zip(workloads, costs, strict=True)]

    def trials_needed(self, plan: Plan) -> int:
        """Fresh trials that the source would take."""
        return 0 if self._source is None else least_trials_needed(self._source, self._network, plan)

    def _simulate(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        costs = self.predict(workloads)
        if self.noise is None:
            return costs
        for workload, cost in zip(workloads, costs, strict=True):
            if workload.key not in self._answers:
                latency_s = cost.latency_s * self.noise.factor(workload.key)
                noisy = replace(cost, latency_s=latency_s, is_measured=True)
                self._answers[workload.key] = noisy
        return [self._answers[w.key] for w in workloads]


class OverriddenLatency:
    """Shows a search other costs than those of its source.

    Args:
        network: whose plans are asked for.
        source: the costs as they are.
        override: what a search is shown of a task's cost; None: the cost.
        is_measuring: ask the source to measure. False: its predictions stand for measurements, and
            nothing is spent.
    """

    def __init__(
        self,
        network: Network,
        source: LatencySource,
        override: Callable[[Workload, TaskCost], TaskCost] | None = None,
        is_measuring: bool = False,
    ) -> None:
        self._network = network
        self._source = source
        self._override = override
        self._is_measuring = is_measuring

    @property
    def spending(self) -> Spending:
        """Running totals of the source."""
        return self._source.spending

    def measure(self, plan: Plan) -> list[TaskCost]:
        """What the source measures or predicts, overridden."""
        workloads = self._network.workloads(plan)
        if self._is_measuring:
            return self._overridden(workloads, self._source.measure(plan))
        return self.predict(workloads)

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """What the source predicts, overridden."""
        return self._overridden(workloads, self._source.predict(workloads))

    def _overridden(
        self, workloads: Sequence[Workload], costs: Sequence[TaskCost]
    ) -> list[TaskCost]:
        if self._override is None:
            return list(costs)
        return [self._override(w, c) for w, c in zip(workloads, costs, strict=True)]
