"""Programs of single tasks:

recipes carried through, the pool, and what is known of each task's fastest program.

A recipe is a way of choosing programs for a task, such as "near: 4 from the pool, 3 random, 16
trials". What a recipe
tried is noted in the cost cache, so that the same job finds its own costs again whatever was tried
since. Called by
the tuner, which knows networks, plans and layout variants.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import tvm

from cprune_rl.compiler.devices.rpc_device import RpcDevice
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
from cprune_rl.cost_cache import CostStore, Tuning

__all__ = ["SchedulePool", "TaskTuner", "TuningTask"]

OnTask = Callable[[int], None]


@dataclass(frozen=True)
class TuningTask:
    """A task that is to have programs.

    Attributes:
        workload: the task.
        load: gives its function, named `main`, and a check of its output, where torch can give one.
        share: of the network's work, in [0, 1].
    """

    workload: Workload
    load: Callable[[], tuple[tvm.IRModule, OutputCheck | None]]
    share: float


class SchedulePool:
    """Good programs by family, for every shape of it:

    what the cost cache holds, from any network, is its beginning.

    Args:
        store: the cost cache.
        context: whose trials count.
    """

    def __init__(self, store: CostStore, context: str) -> None:
        self._store, self._context = store, context
        self._families: dict[str, list[tuple[Workload, ScheduleTrace]]] = {}

    def nearest(self, workload: Workload) -> list[ScheduleTrace]:
        """Programs for a task: those found at the nearest shapes first."""
        return [
            program
            for _, program in sorted(
                self._family(workload.family), key=lambda item: distance(item[0], workload)
            )
        ]

    def replace(self, workload: Workload, programs: Iterable[ScheduleTrace]) -> None:
        """Puts programs found for a task in the place of those that were there for it."""
        family = self._family(workload.family)
        family[:] = [item for item in family if item[0].key != workload.key]
        family.extend((workload, p) for p in programs)

    def _family(self, name: str) -> list[tuple[Workload, ScheduleTrace]]:
        if name not in self._families:
            self._families[name] = [
                (w, ScheduleTrace(t.trace_json))
                for w, t in self._store.fastest(self._context, name)
            ]
        return self._families[name]


@dataclass
class _Learnt:
    """What tuners that may learn from each other share."""

    pool: SchedulePool
    models: dict[str, ScheduleCostModel] = field(default_factory=dict)


class TaskTuner:
    """Finds programs for tasks on one device and keeps account of what that costs.

    Args:
        device: where programs are timed.
        store: keeps every trial.
        seed: of the random programs.
        since: see `tuner.NetworkTuner`.
    """

    def __init__(self, device: RpcDevice, store: CostStore, seed: int, since: float) -> None:
        self._device, self._store, self._seed, self._since = device, store, seed, since
        self.context = device.context
        self.spending = Spending()
        self.costs: dict[str, TaskCost] = {}
        self._tried: dict[str, set[str]] = {}
        self._learnt = _Learnt(SchedulePool(store, self.context))
        self._trials = TrialRunner(device, store, self.context)

    def view(self) -> TaskTuner:
        """A tuner with the same pool that knows no costs yet and has spent nothing."""
        view = TaskTuner(self._device, self._store, self._seed, self._since)
        view._learnt, view._trials = self._learnt, self._trials
        return view

    @property
    def pool(self) -> SchedulePool:
        """Of good programs."""
        return self._learnt.pool

    def tune(self, job: TuningTask, name: str, budget: TuningBudget) -> TaskCost:
        """Carries a recipe through on a task, unless that was done before.

        Args:
            job: the task.
            name: of the recipe.
            budget: what it asks for.
        """
        return self._follow(
            job.workload,
            f"{name}:{budget.key}:seed={self._seed}",
            functools.partial(self._search, job, budget),
        )

    def add_to_pool(self, workloads: Iterable[Workload], n_best: int) -> None:
        """Puts the best programs of tasks into the pool.

        Not for a search to do: those that come later would begin with what it found.

        Args:
            workloads: that were tuned.
            n_best: programs of each.
        """
        for workload in workloads:
            self.pool.replace(workload, self._best(workload, n_best))

    def cross_apply(
        self,
        jobs: Mapping[str, TuningTask],
        n_best: int,
        n_nearest: int | None = None,
        on_task: OnTask | None = None,
    ) -> None:
        """Offers the best programs of each task to the other tasks of its family;

        the best then make the pool.

        Args:
            jobs: tasks that were tuned, by key.
            n_best: programs that a task offers.
            n_nearest: tasks that a task takes programs from, itself included; None for all.
            on_task: called with the number of tasks done after each.
        """
        best = {key: self._best(job.workload, n_best) for key, job in jobs.items()}
        for done, job in enumerate(jobs.values(), start=1):
            family = sorted(
                (j.workload for j in jobs.values() if j.workload.family == job.workload.family),
                key=functools.partial(distance, job.workload),
            )
            programs = [p for w in family[:n_nearest] for p in best[w.key]]
            recipe = (
                "exchange:"
                + hashlib.sha256("".join(sorted(p.digest for p in programs)).encode()).hexdigest()[
                    :16
                ]
            )
            self._follow(job.workload, recipe, functools.partial(self._carry, job, programs))
            if on_task is not None:
                on_task(done)
        self.add_to_pool([job.workload for job in jobs.values()], n_best)

    def adopt_fastest(self, workloads: Iterable[Workload]) -> None:
        """From here on these tasks cost what the fastest program takes that was ever tried on them,
        by whomever.
        """
        for workload in workloads:
            self.costs[workload.key] = self._cost(workload, None)

    def best_schedule(self, workload: Workload) -> tuple[ScheduleTrace, float] | None:
        """The fastest program of a task and its seconds; None where none ran."""
        trials = self._store.trials(self.context, workload.key)
        if not trials or trials[0].measurement.error is not None:
            return None
        return ScheduleTrace(trials[0].trace_json), trials[0].measurement.latency_s

    def n_trials(self, workload: Workload) -> int:
        """Programs tried on a task so far, failures included."""
        return len(self._store.trials(self.context, workload.key))

    def _follow(
        self, workload: Workload, recipe: str, search: Callable[[], list[Candidate]]
    ) -> TaskCost:
        done = self._store.tuned(self.context, workload.key, recipe)
        if done is None:
            self._store.describe([workload])
            started = time.perf_counter()
            programs = tuple(c.trace.digest for c in search())
            done = Tuning(programs, time.perf_counter() - started)
            self._store.mark_tuned(self.context, workload.key, recipe, done)
            self.spending.measure_s += done.seconds
        else:
            fresh = sum(
                t.trace_digest in done.trace_digests and t.created >= self._since
                for t in self._store.trials(self.context, workload.key)
            )
            self.spending.fresh_trials += fresh
            self.spending.cached_trials += len(done.trace_digests) - fresh
            if done.created >= self._since:
                self.spending.measure_s += done.seconds
        tried = self._tried.setdefault(workload.key, set())
        tried.update(done.trace_digests)
        self.costs[workload.key] = self._cost(workload, tried)
        return self.costs[workload.key]

    def _search(self, job: TuningTask, budget: TuningBudget) -> list[Candidate]:
        workload = job.workload
        module, check = job.load()
        seed = int(hashlib.sha256(f"{self._seed}:{workload.key}".encode()).hexdigest()[:7], 16)
        task = SearchTask(module, self.pool.nearest(workload), job.share, seed)
        search = TraceSearch(self._device.target, self._learnt.models)
        return search.run(
            workload.family, task, budget, functools.partial(self._attempt, workload, check=check)
        )

    def _carry(self, job: TuningTask, programs: Iterable[ScheduleTrace]) -> list[Candidate]:
        module, check = job.load()
        found = {
            c.trace.digest: c
            for p in programs
            if (c := transfer_schedule(p, module, self._device.target)) is not None
        }
        self._attempt(job.workload, list(found.values()), check)
        return list(found.values())

    def _attempt(
        self, workload: Workload, candidates: Sequence[Candidate], check: OutputCheck | None
    ) -> list[float]:
        """Seconds of programs, those that the store does not hold timed now."""
        known = {
            t.trace_digest: t.measurement for t in self._store.trials(self.context, workload.key)
        }
        fresh = [c for c in candidates if c.trace.digest not in known]
        if fresh:
            known |= zip(
                (c.trace.digest for c in fresh),
                self._trials.run(workload, fresh, check, check.tables() if check else None),
                strict=True,
            )
        self.spending.fresh_trials += len(fresh)
        self.spending.cached_trials += len(candidates) - len(fresh)
        return [known[c.trace.digest].latency_s for c in candidates]

    def _best(self, workload: Workload, count: int) -> list[ScheduleTrace]:
        """The fastest programs among those that this tuner's own recipes tried."""
        tried = self._tried[workload.key]
        trials = [
            t
            for t in self._store.trials(self.context, workload.key)
            if t.trace_digest in tried and t.measurement.error is None
        ]
        return [ScheduleTrace(t.trace_json) for t in trials[:count]]

    def _cost(self, workload: Workload, programs: set[str] | None) -> TaskCost:
        """The fastest of the given programs, or of all that were ever tried.

        A search sees only what its recipes tried: what later runs found must not change its way, or
        the
        same job would not find its own costs again.
        """
        trials = [
            t
            for t in self._store.trials(self.context, workload.key)
            if programs is None or t.trace_digest in programs
        ]
        if not trials:
            return TaskCost(latency_s=math.inf, error="no program fits this task")
        measured = trials[0].measurement
        if measured.error is not None:
            return TaskCost(latency_s=math.inf, error=measured.error)
        program, family = ScheduleTrace(trials[0].trace_json), workload.family
        if (
            workload.is_block_sparse
        ):  # blocks stay whole; a layer over rows has no loop of channels that follows
            factors: tuple[int, ...] = (
                (-(-workload.channels_out // workload.block),)
                if workload.operator.name == "conv2d"
                else ()
            )
            return TaskCost(
                latency_s=measured.latency_s,
                tile_factors=factors,
                lanes=workload.block,
                spread=measured.spread,
            )
        implementation = implementation_of(family)
        # their tiled channel loop runs over blocks
        lanes = (
            block_size(workload.channels_out, vector_width(self._device.target))
            if implementation in (PACKED, WINOGRAD)
            else 1
        )
        factors = program.tile_factors("NHWC" if implementation else "NCHW")
        return TaskCost(
            latency_s=measured.latency_s, tile_factors=factors, lanes=lanes, spread=measured.spread
        )


def distance(source: Workload, wanted: Workload) -> float:
    """How far two shapes of a family are apart, in logs of their lengths."""
    pairs = [
        (source.channels_in, wanted.channels_in),
        (source.channels_out, wanted.channels_out),
        (source.operator.height, wanted.operator.height),
    ]
    if source.is_block_sparse and wanted.is_block_sparse:
        pairs.append((source.macs, wanted.macs))
    return sum(abs(math.log(a / b)) for a, b in pairs)
