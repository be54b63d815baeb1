"""Latencies out of a recording: what was timed once, and between it what was interpolated.

Nothing is built or timed, so a search on a recording needs neither compiler nor device. It answers
alike every
time, or, with a seed, as a device would: off by what its samples spread when they were taken.
Called by
`envs.recordings` and `job.recorded`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import NormalDist

from cprune_rl.core.network import Network, Plan, Workload
from cprune_rl.core.protocols import Spending, TaskCost
from cprune_rl.latency.interpolation import LatencyInterpolator

__all__ = ["RecordedLatency", "RecordedTasks", "interpolation_error"]

_NORMAL = NormalDist()


class RecordedTasks:
    """The tasks of a recording and what is interpolated between them;

    shared by every source that reads it.

    Args:
        known: the recorded tasks.
    """

    def __init__(self, known: Iterable[tuple[Workload, TaskCost]]) -> None:
        self._model = LatencyInterpolator(known)

    def measured(self) -> list[tuple[Workload, TaskCost]]:
        """Every recorded task."""
        return self._model.measured()

    @cached_property
    def interpolation_error(self) -> float:
        """How far interpolated tasks are off (see the function), found when it is first asked for."""
        return interpolation_error(self.measured())

    def cost(self, workload: Workload) -> TaskCost:
        """A recorded or an interpolated cost, saying which;

        one with an error for a kind of task that was never recorded.
        """
        cost = self._model.predict(workload)
        return (
            cost
            if math.isfinite(cost.latency_s)
            else replace(
                cost, error=f"the recording has no task of this kind: {workload.family[:80]}"
            )
        )


class RecordedLatency:
    """A `protocols.LatencySource` that reads a recording.

    A look at a task counts as one cached trial, the first time. `is_measured` says whether the
    recording has the
    task; an interpolated one says that it is, also where noise was added to it.

    Args:
        network: whose plans are asked for.
        tasks: what was recorded.
        noise_seed: looks deviate by what the recording says of its own certainty, one draw for each
            task and seed:
            log-normal, by the spread of a recorded task's samples, by `interpolation_error` where
            it was interpolated.
            None: they do not.
        trials_each: fresh trials that a look is charged with, the first time; a recording does not
            hold how many it took.
    """

    def __init__(
        self,
        network: Network,
        tasks: RecordedTasks,
        noise_seed: int | None = None,
        trials_each: int = 0,
    ) -> None:
        self.network, self.tasks, self.noise_seed, self.trials_each = (
            network,
            tasks,
            noise_seed,
            trials_each,
        )
        self._answers: dict[str, TaskCost] = {}
        self._measured: dict[str, TaskCost] = {}
        self.spending = Spending()

    def measured(self) -> list[tuple[Workload, TaskCost]]:
        """Every recorded task, without noise."""
        return self.tasks.measured()

    def measure(self, plan: Plan) -> list[TaskCost]:
        """True looks, as far as a recording has them (see `protocols.LatencySource`)."""
        measured = self._measured
        return [measured.get(w.key) or self._measure_task(w) for w in self.network.workloads(plan)]

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """What was measured at, else what is recorded or interpolated."""
        answers = self._answers
        return [answers.get(w.key) or self._answer(w) for w in workloads]

    def trials_needed(self, plan: Plan) -> int:
        """Fresh trials that `measure` would be charged with for a plan."""
        return self.trials_each * len(
            {w.key for w in self.network.workloads(plan)} - self._measured.keys()
        )

    def _answer(self, workload: Workload) -> TaskCost:
        cost = self._answers[workload.key] = self.tasks.cost(workload)
        return cost

    def _measure_task(self, workload: Workload) -> TaskCost:
        cost = self._answers.get(workload.key) or self._answer(workload)
        if self.noise_seed is not None and cost.error is None:
            sigma = (
                math.sqrt(math.log1p(cost.spread**2))
                if cost.is_measured
                else self.tasks.interpolation_error
            )
            cost = replace(
                cost,
                latency_s=cost.latency_s
                * math.exp(sigma * _deviation(workload.key, self.noise_seed)),
            )
        self._answers[workload.key] = self._measured[workload.key] = cost
        self.spending.cached_trials += 1
        self.spending.fresh_trials += self.trials_each
        return cost


def interpolation_error(known: Iterable[tuple[Workload, TaskCost]]) -> float:
    """How far the interpolation is off on a recording:

    root mean square of log ratios, each task left out in turn.

    Args:
        known: recorded tasks; those that are alone of their kind say nothing.

    Returns:
        0.05 for 5 %; 0 where nothing can be left out.
    """
    kinds: dict[tuple[object, ...], list[tuple[Workload, TaskCost]]] = {}
    for workload, cost in known:
        kinds.setdefault((workload.family, workload.operator), []).append((workload, cost))
    squares = []
    for tasks in kinds.values():
        for i, (workload, cost) in enumerate(tasks):
            predicted = (
                LatencyInterpolator([*tasks[:i], *tasks[i + 1 :]]).predict(workload).latency_s
            )
            if math.isfinite(predicted) and predicted > 0:
                squares.append(math.log(predicted / cost.latency_s) ** 2)
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0


def _deviation(key: str, seed: int) -> float:
    """A standard normal deviate that depends on a task and a seed alone, on every machine."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=6).digest()
    return _NORMAL.inv_cdf((int.from_bytes(digest, "big") + 0.5) / 2**48)
