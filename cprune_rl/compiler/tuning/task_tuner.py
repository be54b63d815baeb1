"""Tunes single tasks, keeps the pool, and knows each task's fastest schedule.

A way of tuning, such as "near: 4 from the pool, 3 random, 16 trials", has a tuning key. What it
tried on a task is noted in the cost cache under that key. The same tuning then finds its own costs
again, whatever was tried since.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import tvm

from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.devices.target import vector_width
from cprune_rl.compiler.kernels.implementations import PACKED, WINOGRAD, implementation_of
from cprune_rl.compiler.kernels.packed_conv import block_size
from cprune_rl.compiler.tuning.budget import TuningBudget
from cprune_rl.compiler.tuning.cost_model import ScheduleCostModel
from cprune_rl.compiler.tuning.output_check import OutputCheck
from cprune_rl.compiler.tuning.schedule import Candidate, ScheduleTrace, transfer_schedule
from cprune_rl.compiler.tuning.trace_search import SearchTask, TraceSearch
from cprune_rl.compiler.tuning.trials import TrialRunner
from cprune_rl.core.protocols import Spending, TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache import CostStore, StoredTrial, Tuning

__all__ = ["OnTask", "SchedulePool", "TaskTuner", "TuningTask", "ignore_progress"]

OnTask = Callable[[int], None]
"""Called after each task with the number of tasks done."""


def ignore_progress(done: int) -> None:
    """Tell nobody how far the tuning is."""


@dataclass(frozen=True)
class TuningTask:
    """A task that is to be tuned.

    Attributes:
        workload: the task.
        load: gives its function, named `main`, and a check of its output where torch can give one.
        share: of the network's work, in [0, 1].
    """

    workload: Workload
    load: Callable[[], tuple[tvm.IRModule, OutputCheck | None]]
    share: float


class SchedulePool:
    """Good schedules by family, for every shape of it.

    It begins with what the cost cache holds, from any network. How many are kept and tried is
    `n_shared` and `n_pool` of `tuning/budget.py`.

    Args:
        store: the cost cache.
        context: whose trials count.
    """

    def __init__(self, store: CostStore, context: str) -> None:
        self._store = store
        self._context = context
        self._families: dict[str, list[tuple[Workload, ScheduleTrace]]] = {}

    def nearest(self, workload: Workload) -> list[ScheduleTrace]:
        """Return schedules for a task: those found at the nearest shapes first."""
        family = self._family(workload.family)
        return [trace for _, trace in sorted(family, key=lambda item: distance(item[0], workload))]

    def replace(self, workload: Workload, traces: Iterable[ScheduleTrace]) -> None:
        """Put schedules found for a task in the place of those that were there for it."""
        family = self._family(workload.family)
        family[:] = [item for item in family if item[0].key != workload.key]
        family.extend((workload, trace) for trace in traces)

    def _family(self, name: str) -> list[tuple[Workload, ScheduleTrace]]:
        if name not in self._families:
            self._families[name] = [
                (workload, ScheduleTrace(trial.trace_json))
                for workload, trial in self._store.fastest(self._context, name)
            ]
        return self._families[name]


class TaskTuner:
    """Finds schedules for tasks on one device, and counts what that costs.

    Attributes:
        context: where the cost cache keeps the device's trials.
        pool: of good schedules.
        costs: of the tasks that were tuned, by key.
        spending: running totals.

    Args:
        device: where schedules are timed.
        store: keeps every trial.
        seed: of the random schedules.
        since: trials that the store got after this moment, in seconds since the epoch, count as
            fresh, though another search of the same run made them.
    """

    def __init__(self, device: RpcDevice, store: CostStore, seed: int, since: float) -> None:
        self._device = device
        self._store = store
        self._seed = seed
        self._since = since
        self.context = device.context
        self.pool = SchedulePool(store, self.context)
        self.costs: dict[str, TaskCost] = {}
        self.spending = Spending()
        self._tried: dict[str, set[str]] = {}
        self._cost_models: dict[str, ScheduleCostModel] = {}
        self._trials = TrialRunner(device, store, self.context)

    def view(self, costs: Mapping[str, TaskCost]) -> TaskTuner:
        """Return a tuner with the same pool and rankings that knows these costs alone."""
        view = copy.copy(self)
        view.costs = dict(costs)
        view.spending = Spending()
        view._tried = {}
        return view

    def tune(self, task: TuningTask, name: str, budget: TuningBudget) -> TaskCost:
        """Tune a task, unless it was tuned in this way before.

        Args:
            task: the task.
            name: begins the tuning key.
            budget: how hard.
        """
        tuning_key = f"{name}:{budget.key}:seed={self._seed}"
        return self._tune_once(
            task.workload, tuning_key, functools.partial(self._search, task, budget)
        )

    def add_to_pool(self, workloads: Iterable[Workload], n_best: int) -> None:
        """Put the best schedules of tasks into the pool.

        A search must not do it: those that come later would begin with what it found.

        Args:
            workloads: that were tuned.
            n_best: schedules of each.
        """
        for workload in workloads:
            self.pool.replace(workload, self._best(workload, n_best))

    def cross_apply(
        self,
        tasks: Mapping[str, TuningTask],
        n_best: int,
        n_nearest: int | None = None,
        on_task: OnTask = ignore_progress,
    ) -> None:
        """Try the best schedules of each task on the others of its family, and pool the best.

        Args:
            tasks: that were tuned, by key.
            n_best: schedules that a task gives.
            n_nearest: tasks that a task takes schedules from, itself included; None for all.
            on_task: told of each task.
        """
        best = {key: self._best(task.workload, n_best) for key, task in tasks.items()}
        workloads = [task.workload for task in tasks.values()]
        for done, task in enumerate(tasks.values(), start=1):
            family = [w for w in workloads if w.family == task.workload.family]
            family.sort(key=functools.partial(distance, task.workload))
            traces = [trace for workload in family[:n_nearest] for trace in best[workload.key]]
            digests = "".join(sorted(trace.digest for trace in traces))
            tuning_key = "exchange:" + hashlib.sha256(digests.encode()).hexdigest()[:16]
            self._tune_once(
                task.workload, tuning_key, functools.partial(self._transfer, task, traces)
            )
            on_task(done)
        self.add_to_pool(workloads, n_best)

    def adopt_fastest(self, workloads: Iterable[Workload]) -> None:
        """Let these tasks cost what the fastest schedule takes that anybody ever tried."""
        for workload in workloads:
            self.costs[workload.key] = self._cost(workload, self._stored(workload))

    def best_schedule(self, workload: Workload) -> tuple[ScheduleTrace, float] | None:
        """Return the fastest schedule of a task and its seconds; None where none ran."""
        trials = self._stored(workload)
        if not trials or trials[0].measurement.error is not None:
            return None
        return ScheduleTrace(trials[0].trace_json), trials[0].measurement.latency_s

    def n_trials(self, workload: Workload) -> int:
        """Count the schedules tried on a task so far, failures included."""
        return len(self._stored(workload))

    def _tune_once(
        self, workload: Workload, tuning_key: str, search: Callable[[], list[Candidate]]
    ) -> TaskCost:
        done = self._store.tuned(self.context, workload.key, tuning_key)
        if done is None:
            self._store.describe([workload])
            started = time.perf_counter()
            digests = tuple(candidate.trace.digest for candidate in search())
            seconds = time.perf_counter() - started
            done = Tuning(key=tuning_key, trace_digests=digests, seconds=seconds)
            self._store.mark_tuned(self.context, workload.key, done)
            self.spending.measure_s += done.seconds
        else:
            self._charge_stored(workload, done)
        self._tried.setdefault(workload.key, set()).update(done.trace_digests)
        self.costs[workload.key] = self._cost(workload, self._own_trials(workload))
        return self.costs[workload.key]

    def _charge_stored(self, workload: Workload, tuning: Tuning) -> None:
        """Count a tuning of the cost cache; what this run made there is as if made for it."""
        n_fresh = sum(
            trial.trace_digest in tuning.trace_digests and trial.created >= self._since
            for trial in self._stored(workload)
        )
        self.spending.fresh_trials += n_fresh
        self.spending.cached_trials += len(tuning.trace_digests) - n_fresh
        if tuning.created >= self._since:
            self.spending.measure_s += tuning.seconds

    def _search(self, task: TuningTask, budget: TuningBudget) -> list[Candidate]:
        workload = task.workload
        module, check = task.load()
        seed = int(hashlib.sha256(f"{self._seed}:{workload.key}".encode()).hexdigest()[:7], 16)
        search_task = SearchTask(
            module=module,
            target=self._device.target,
            pool=self.pool.nearest(workload),
            share=task.share,
            seed=seed,
        )
        cost_model = self._cost_models.setdefault(workload.family, ScheduleCostModel())
        search = TraceSearch(search_task, budget, cost_model)
        return search.run(functools.partial(self._measure, workload, check))

    def _transfer(self, task: TuningTask, traces: Iterable[ScheduleTrace]) -> list[Candidate]:
        module, check = task.load()
        distinct: dict[str, Candidate] = {}
        for trace in traces:
            candidate = transfer_schedule(trace, module, self._device.target)
            if candidate is not None:
                distinct[candidate.trace.digest] = candidate
        candidates = list(distinct.values())
        self._measure(task.workload, check, candidates)
        return candidates

    def _measure(
        self, workload: Workload, check: OutputCheck | None, candidates: Sequence[Candidate]
    ) -> list[float]:
        """Return the seconds of schedules; those that the store does not hold are timed now."""
        measurements = {t.trace_digest: t.measurement for t in self._stored(workload)}
        fresh = [c for c in candidates if c.trace.digest not in measurements]
        if fresh:
            tables = check.tables() if check else None
            timed = self._trials.run(workload, fresh, check, tables=tables)
            measurements |= {c.trace.digest: m for c, m in zip(fresh, timed, strict=True)}
        self.spending.fresh_trials += len(fresh)
        self.spending.cached_trials += len(candidates) - len(fresh)
        return [measurements[c.trace.digest].latency_s for c in candidates]

    def _stored(self, workload: Workload) -> list[StoredTrial]:
        """Return all trials of a task, fastest first."""
        return self._store.trials(self.context, workload.key)

    def _own_trials(self, workload: Workload) -> list[StoredTrial]:
        """Return the trials that this tuner asked for, fastest first.

        A search sees no others: what later runs found must not change its way, or the same search
        would not find its own costs again.
        """
        tried = self._tried[workload.key]
        return [trial for trial in self._stored(workload) if trial.trace_digest in tried]

    def _best(self, workload: Workload, count: int) -> list[ScheduleTrace]:
        working = [t for t in self._own_trials(workload) if t.measurement.error is None]
        return [ScheduleTrace(trial.trace_json) for trial in working[:count]]

    def _cost(self, workload: Workload, trials: Sequence[StoredTrial]) -> TaskCost:
        """Return the cost of the first trial's schedule."""
        if not trials:
            return TaskCost(latency_s=math.inf, error="no program fits this task")
        fastest = trials[0].measurement
        if fastest.error is not None:
            return TaskCost(latency_s=math.inf, error=fastest.error)
        factors, lanes = self._channel_tiling(workload, ScheduleTrace(trials[0].trace_json))
        return TaskCost(
            latency_s=fastest.latency_s, tile_factors=factors, lanes=lanes, spread=fastest.spread
        )

    def _channel_tiling(
        self, workload: Workload, trace: ScheduleTrace
    ) -> tuple[tuple[int, ...], int]:
        """Return the channel loop's tile factors, and the channels that an iteration computes."""
        if workload.is_block_sparse:
            # Blocks stay whole; a layer over rows has no loop of channels that follows.
            if workload.operator.name != "conv2d":
                return (), workload.block
            return (-(-workload.channels_out // workload.block),), workload.block
        implementation = implementation_of(workload.family)
        if implementation in (PACKED, WINOGRAD):  # their channel loop runs over blocks
            lanes = block_size(workload.channels_out, vector_width(self._device.target))
        else:
            lanes = 1
        return trace.tile_factors("NHWC" if implementation else "NCHW"), lanes


def distance(source: Workload, wanted: Workload) -> float:
    """Return how far two shapes of a family are apart, in logs of their lengths."""
    pairs = [
        (source.channels_in, wanted.channels_in),
        (source.channels_out, wanted.channels_out),
        (source.operator.height, wanted.operator.height),
    ]
    if source.is_block_sparse and wanted.is_block_sparse:
        pairs.append((source.macs, wanted.macs))
    return sum(abs(math.log(a / b)) for a, b in pairs)
