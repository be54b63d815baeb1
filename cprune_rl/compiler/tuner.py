"""Task latencies measured on a device: programs from the pool first, then random ones.

The source of true looks behind `cprune_rl/CPrune-v0`. The dense network's tasks are tuned with many
random programs; their best ones are the pool. A task at another shape tries the pool's programs carried
over and a few random ones: which ones depends on the task alone, so the order of a search does not matter.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tvm
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from cprune_rl.compiler.device import LocalDevice, build
from cprune_rl.compiler.lower import task_modules
from cprune_rl.compiler.program import Candidate, Program, carry_over, random_candidates
from cprune_rl.compiler.workload import ExportedNetwork
from cprune_rl.contracts import Artifact, Measurement, Spending, TaskCost
from cprune_rl.cost_cache import CostStore, StoredTrial, Tuning
from cprune_rl.errors import ToolchainError
from cprune_rl.table import Network, Plan, Workload

__all__ = ["Tuner", "TunerSettings"]

OnTrials = Callable[[int], None]


@dataclass(frozen=True)
class TunerSettings:
    """How many programs a task is tried with.

    Attributes:
        n_dense: random programs for each task of the dense network.
        n_pool: of the pool, for each task at another shape.
        n_random: random programs for each task at another shape.
        seed: of the random programs.
    """

    n_dense: int = 48
    n_pool: int = 4
    n_random: int = 3
    seed: int = 0


class Tuner:
    """A `LatencySource` that times programs (see `contracts.LatencySource`).

    Args:
        network: whose tasks are asked for.
        exported: the same network, for the tasks' functions.
        device: where programs are timed.
        store: keeps every trial.
        settings: how many programs.
        since: trials that the store got after this moment, in seconds since the epoch, are counted as
            fresh though another search of the same run made them: each pays as if it were alone.
    """

    def __init__(self, network: Network, exported: ExportedNetwork, device: LocalDevice, store: CostStore, settings: TunerSettings | None = None, since: float = math.inf) -> None:
        self._network, self._exported, self._device, self._store = network, exported, device, store
        self._since = since
        self._settings = settings or TunerSettings()
        self._spending = Spending()
        self._costs: dict[str, TaskCost] = {}
        self._dense_costs: dict[str, TaskCost] = {}
        self._tried: dict[str, set[str]] = {}
        self._pool: dict[str, list[tuple[Workload, Program]]] = {}
        self._modules: dict[str, tvm.IRModule] = {}
        self._n_built = itertools.count()
        self.context = f"{device.target};{device.fingerprint};tvm={tvm.__version__}"

    @property
    def spending(self) -> Spending:
        """Running totals."""
        return self._spending

    def view(self) -> Tuner:
        """A source with the same pool and counters of its own, for a search that is to be compared."""
        view = Tuner(self._network, self._exported, self._device, self._store, self._settings, self._since)
        view._pool, view._modules, view._n_built = self._pool, self._modules, self._n_built
        view._costs = dict(self._dense_costs)
        return view

    def tune_dense(self, on_task: OnTrials | None = None) -> None:
        """Tunes every task of the dense network and makes the pool from the best programs.

        Args:
            on_task: called with the number of tasks done after each.
        """
        dense, settings = self._network.dense, self._settings
        workloads = {w.key: w for w in self._network.workloads(dense)}
        for done, workload in enumerate(workloads.values(), start=1):
            self._tune(workload, f"dense:random={settings.n_dense}:seed={settings.seed}", lambda w: self._random(w, settings.n_dense), dense)
            if on_task is not None:
                on_task(done)
        self._exchange({w.key: (w, dense) for w in workloads.values()}, settings.n_pool)
        for workload in workloads.values():
            self._costs[workload.key] = self._cost(workload, self._tried[workload.key])
            self._pool.setdefault(workload.family, []).extend((workload, p) for p in self._best(workload, settings.n_pool))
        self._dense_costs = {key: self._costs[key] for key in workloads}

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Times the tasks of a plan that were not timed before (see `contracts.LatencySource`)."""
        workloads = self._network.workloads(plan)
        for workload in workloads:
            if workload.key not in self._costs:
                self._tune(workload, self._recipe(workload), self._candidates, plan)
        return [self._costs[w.key] for w in workloads]

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Only what was measured: a task that was not has an infinite, unmeasured cost."""
        unknown = TaskCost(math.inf, is_measured=False)
        return [self._costs.get(w.key) or self._recall(w) or unknown for w in workloads]

    def exchange(self, plans: Iterable[Plan], n_best: int = 4, on_task: OnTrials | None = None) -> None:
        """Tries the best programs of all plans' tasks on each other, the dense shapes included.

        Makes a comparison fair: after it every plan has been offered the best that was found for any other,
        and no dense task has had fewer trials than the same task of a pruned network. From here on
        a task costs what the fastest program ever tried on it takes.

        Args:
            plans: the plans to be compared.
            n_best: programs that each task offers to its family.
            on_task: called with the number of tasks done after each.
        """
        plans = list(dict.fromkeys(plans))
        tasks = {w.key: (w, plan) for plan in plans for w in self._network.workloads(plan)}
        for plan in plans:
            self.measure(plan)
        self._exchange(tasks, n_best, on_task)
        self._top_up_dense(plans)
        for workload, _ in tasks.values():
            self._costs[workload.key] = self._cost(workload, None)

    def _top_up_dense(self, plans: Sequence[Plan]) -> None:
        """Gives each dense task at least as many trials as the same subgraph had in any plan."""
        dense = self._network.dense
        for at, workload in enumerate(self._network.workloads(dense)):
            most = max(self.n_trials(self._network.workloads(plan)[at]) for plan in plans)
            if (missing := most - self.n_trials(workload)) > 0:
                count = self._settings.n_dense + missing  # the space may be small: drawing again from the start keeps the recipe plain
                self._tune(workload, f"top-up:random={count}:seed={self._settings.seed}", functools.partial(self._random, count=count), dense)

    def _exchange(self, tasks: Mapping[str, tuple[Workload, Plan]], n_best: int, on_task: OnTrials | None = None) -> None:
        offers: dict[str, list[Program]] = {}
        for workload, _ in tasks.values():
            offers.setdefault(workload.family, []).extend(self._best(workload, n_best))
        for done, (workload, plan) in enumerate(tasks.values(), start=1):
            programs = offers[workload.family]
            recipe = "exchange:" + hashlib.sha256("".join(sorted(p.digest for p in programs)).encode()).hexdigest()[:16]
            self._tune(workload, recipe, functools.partial(self._carried, programs=programs), plan)
            if on_task is not None:
                on_task(done)

    def _best(self, workload: Workload, count: int) -> list[Program]:
        """The fastest programs among those that this tuner's own recipes tried."""
        tried = self._tried[workload.key]
        trials = [t for t in self._store.trials(self.context, workload.key) if t.program in tried and t.measurement.error is None]
        return [Program(t.program_json) for t in trials[:count]]

    def best_program(self, workload: Workload) -> tuple[Program, float] | None:
        """The fastest program of a task and its seconds; None where none ran."""
        trials = self._store.trials(self.context, workload.key)
        if not trials or trials[0].measurement.error is not None:
            return None
        return Program(trials[0].program_json), trials[0].measurement.latency_s

    def n_trials(self, workload: Workload) -> int:
        """Programs tried on a task so far, failures included."""
        return len(self._store.trials(self.context, workload.key))

    def _recipe(self, workload: Workload) -> str:
        pool = "".join(p.digest for p in self._nearest(workload))
        text = f"{pool}:random={self._settings.n_random}:seed={self._settings.seed}"
        return "pool:" + hashlib.sha256(text.encode()).hexdigest()[:16]

    def _recall(self, workload: Workload) -> TaskCost | None:
        done = self._store.tuned(self.context, workload.key, self._recipe(workload))
        if done is None:
            return None
        return self._cost(workload, set(done.programs))

    def _nearest(self, workload: Workload) -> list[Program]:
        """The pool's programs for a task: those found at the nearest shapes of its family."""

        def distance(source: Workload) -> float:
            pairs = [(source.channels_in, workload.channels_in), (source.channels_out, workload.channels_out)]
            pairs.append((source.operator.height, workload.operator.height))
            return sum(abs(math.log(a / b)) for a, b in pairs)

        pool = sorted(self._pool.get(workload.family, []), key=lambda item: distance(item[0]))
        return [program for _, program in pool[: self._settings.n_pool]]

    def _candidates(self, workload: Workload) -> list[Candidate]:
        return self._carried(workload, self._nearest(workload)) + self._random(workload, self._settings.n_random)

    def _carried(self, workload: Workload, programs: Iterable[Program]) -> list[Candidate]:
        module = self._modules[workload.key]
        return [c for p in programs if (c := carry_over(p, module, self._device.target)) is not None]

    def _random(self, workload: Workload, count: int) -> list[Candidate]:
        seed = int(hashlib.sha256(f"{self._settings.seed}:{workload.key}".encode()).hexdigest()[:7], 16)
        return random_candidates(self._modules[workload.key], self._device.target, count, seed)

    def _tune(self, workload: Workload, recipe: str, candidates: Callable[[Workload], list[Candidate]], plan: Plan) -> None:
        done = self._store.tuned(self.context, workload.key, recipe)
        if done is None:
            done = self._carry_through(workload, recipe, candidates, plan)
        elif done.created >= self._since:
            self._spending.fresh_trials += len(done.programs)
            self._spending.measure_s += done.seconds
        else:
            self._spending.cached_trials += len(done.programs)
        tried = self._tried.setdefault(workload.key, set())
        tried.update(done.programs)
        self._costs[workload.key] = self._cost(workload, tried)

    def _carry_through(self, workload: Workload, recipe: str, candidates: Callable[[Workload], list[Candidate]], plan: Plan) -> Tuning:
        started = time.perf_counter()
        known = {t.program for t in self._store.trials(self.context, workload.key)}
        if workload.key not in self._modules:
            self._modules.update(task_modules(self._network, self._exported, plan))
        wanted = {c.program.digest: c for c in candidates(workload)}
        fresh = [c for digest, c in wanted.items() if digest not in known]
        self._run_trials(workload, fresh)
        tuning = Tuning(tuple(wanted), time.perf_counter() - started)
        self._store.mark_tuned(self.context, workload.key, recipe, tuning)
        self._spending.fresh_trials += len(fresh)
        self._spending.cached_trials += len(wanted) - len(fresh)
        self._spending.measure_s += tuning.seconds
        return tuning

    def _cost(self, workload: Workload, programs: set[str] | None) -> TaskCost:
        """The fastest of the given programs, or of all that were ever tried.

        A search sees only what its recipes tried: what later runs found must not change its way, or the
        same job would not find its own costs again.
        """
        trials = [t for t in self._store.trials(self.context, workload.key) if programs is None or t.program in programs]
        if not trials:
            return TaskCost(math.inf, error="no program fits this task")
        best = trials[0]
        if best.measurement.error is not None:
            return TaskCost(math.inf, error=best.measurement.error)
        return TaskCost(best.measurement.latency_s, Program(best.program_json).tile_factors)

    def _run_trials(self, workload: Workload, candidates: Sequence[Candidate]) -> None:
        """Builds two at a time, times one at a time, and keeps what came out."""
        with ThreadPoolExecutor(2) as pool:  # the compiler releases Python's lock
            built = list(pool.map(self._build, candidates))
        artifacts = [a for a in built if isinstance(a, Artifact)]
        timed = iter(self._device.time(artifacts) if artifacts else [])
        measurements = [next(timed) if isinstance(b, Artifact) else b for b in built]
        trials = [StoredTrial(workload.key, c.program.digest, c.program.trace_json, m) for c, m in zip(candidates, measurements, strict=True)]
        self._store.add_trials(self.context, trials)
        for artifact in artifacts:
            with contextlib.suppress(OSError):
                Path(artifact.path).unlink()

    def _build(self, candidate: Candidate) -> Artifact | Measurement:
        path = self._device.build_folder / f"trial{next(self._n_built)}.so"
        try:
            arguments = ArgInfo.from_entry_func(candidate.module, remove_preproc=True)
            shapes = [tuple(int(d) for d in a.shape) for a in arguments]
            return build(candidate.module, shapes, [str(a.dtype) for a in arguments], self._device.target, path)
        except OSError as error:  # a full disk says nothing about the program: it must not be kept as its failure
            raise ToolchainError(f"programs cannot be built: {error}. Free some space, then go on with --resume.") from error
        except Exception as error:  # whatever the compiler raises on a broken program is the value of this trial
            return Measurement(error=f"build failed: {type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}")
