"""Latencies out of a recording: tasks that were timed once, and interpolation between them.

Nothing is built or timed, so a search on a recording needs neither a compiler nor a device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import Spending, TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.latency.interpolation import LatencyInterpolator

__all__ = ["RecordedLatency"]

_NORMAL = NormalDist()


class RecordedLatency:
    """Reads a recording: a `LatencySource` that answers alike every time.

    Each task counts as one cached trial when it is first measured. `is_measured` says whether the
    recording has the task; noise does not change that.

    Args:
        network: whose plans are asked for.
        interpolator: of the recorded tasks; several sources may share it, and none changes it.
        noise_seed: a measurement deviates as one on the device would, by one log-normal draw for
            each task and seed: by the spread of its samples where the task is recorded, by
            `leave_one_out_error` where it is interpolated. None: it does not deviate.
        trials_each: fresh trials that the first measurement of a task is charged with. A recording
            does not say how many it took.
    """

    def __init__(
        self,
        network: Network,
        interpolator: LatencyInterpolator,
        noise_seed: int | None = None,
        trials_each: int = 0,
    ) -> None:
        self.network = network
        self.interpolator = interpolator
        self.noise_seed = noise_seed
        self.trials_each = trials_each
        self.spending = Spending()
        self._answers: dict[str, TaskCost] = {}
        self._measured: dict[str, TaskCost] = {}

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Recorded or interpolated costs, with noise where there is a seed."""
        measured = self._measured
        return [measured.get(w.key) or self._measure(w) for w in self.network.workloads(plan)]

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Costs that were measured, else recorded or interpolated ones without noise."""
        answers = self._answers
        return [answers.get(w.key) or self._predict(w) for w in workloads]

    def trials_needed(self, plan: Plan) -> int:
        """Fresh trials that `measure` would be charged with, exactly."""
        keys = {w.key for w in self.network.workloads(plan)}
        return self.trials_each * len(keys - self._measured.keys())

    def _predict(self, workload: Workload) -> TaskCost:
        (cost,) = self.interpolator.predict((workload,))
        if math.isinf(cost.latency_s):
            error = f"the recording has no task of this kind: {workload.family[:80]}"
            cost = replace(cost, error=error)
        self._answers[workload.key] = cost
        return cost

    def _measure(self, workload: Workload) -> TaskCost:
        cost = self._answers.get(workload.key) or self._predict(workload)
        if self.noise_seed is not None and cost.error is None:
            factor = math.exp(self._sigma(cost) * _deviate(workload.key, self.noise_seed))
            cost = replace(cost, latency_s=cost.latency_s * factor)
        self._answers[workload.key] = self._measured[workload.key] = cost
        self.spending.cached_trials += 1
        self.spending.fresh_trials += self.trials_each
        return cost

    def _sigma(self, cost: TaskCost) -> float:
        """Standard deviation of the log latency."""
        if cost.is_measured:
            return math.sqrt(math.log1p(cost.spread**2))
        return self.interpolator.leave_one_out_error


def _deviate(key: str, seed: int) -> float:
    """A standard normal deviate that depends on a task and a seed alone, on every machine."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=6).digest()
    return _NORMAL.inv_cdf((int.from_bytes(digest, "big") + 0.5) / 2**48)
