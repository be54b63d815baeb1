"""Plans measured on a device: the source of true looks behind `cprune_rl/CPrune-v0`.

The dense network's tasks are tuned hard, in every variant; their best programs are the pool. A task at
another shape
tries the pool's programs carried over, a few random ones, and evolves from them as long as that
pays. The pool's and
the random programs depend on the task, not on the order of a search; which mutants are tried
depends on it too, by the
learned ranking, which tasks of a family share and which starts empty after `--resume`. Which variants
are worth trying is
seen on the dense network, and asked again of a task so much narrower that the answer may be
another; of layers that are
pruned by schemes it is seen for each kind of block by itself. The whole network's variants are then
chosen together.
"""

from __future__ import annotations

import copy
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import tvm

from cprune_rl.compiler.devices.rpc_device import RpcDevice
from cprune_rl.compiler.layouts.survey import Channels, VariantSurvey
from cprune_rl.compiler.layouts.transposes import TransposeTask
from cprune_rl.compiler.layouts.variants import (
    LayoutVariants,
    Transpose,
    VariantChoice,
    distinct_variants,
)
from cprune_rl.compiler.tuning.budget import TuningBudget, TuningSettings
from cprune_rl.compiler.tuning.output_check import OutputCheck, checked_task
from cprune_rl.compiler.tuning.schedule import ScheduleTrace
from cprune_rl.compiler.tuning.task_tuner import SchedulePool, TaskTuner, TuningTask
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Spending, TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache import CostStore

__all__ = ["NetworkTuner"]

OnTask = Callable[[int], None]
_SURVEY_TOLERANCE = 2.0  # a dozen random programs say little more
# times as slow as the dense layer may a pruned one be, by a few random programs, to be tuned on
_PROMISING = 1.6
_NEIGHBOURS = 3  # shapes that a shape is offered programs of before a search, itself included


@dataclass
class _Shared:
    """What the searches on one tuner share of its network."""

    loaded: dict[str, tuple[tvm.IRModule, OutputCheck | None]] = field(default_factory=dict)
    surveys: list[VariantSurvey] = field(
        default_factory=list
    )  # of each subgraph, on the dense network
    block_sparse: dict[tuple[int, str], VariantSurvey] = field(
        default_factory=dict
    )  # of each subgraph and kind of block, on the plans of `tune_block_sparse`
    dense_costs: dict[str, TaskCost] = field(default_factory=dict)


class NetworkTuner:
    """A `LatencySource` that times programs (see `protocols.LatencySource`).

    Args:
        variants: the network whose tasks are asked for.
        device: where programs are timed.
        store: keeps every trial.
        settings: how many programs.
        since: trials that the store got after this moment, in seconds since the epoch, are counted
            as
            fresh though another search of the same run made them: each pays as if it were alone.
    """

    def __init__(
        self,
        variants: LayoutVariants,
        device: RpcDevice,
        store: CostStore,
        settings: TuningSettings | None = None,
        since: float = math.inf,
    ) -> None:
        self._variants, self._device = variants, device
        self._settings = settings or TuningSettings()
        self._tasks = TaskTuner(device, store, self._settings.seed, since)
        self._shared = _Shared()
        self._plans: dict[Plan, list[TaskCost]] = {}
        self._answers: dict[str, TaskCost] = {}
        self._surveys = self._new_surveys()
        self._block_sparse: dict[tuple[int, str], VariantSurvey] = {}

    @property
    def spending(self) -> Spending:
        """Running totals."""
        return self._tasks.spending

    @property
    def context(self) -> str:
        """Where the cost cache keeps this device's trials."""
        return self._tasks.context

    @property
    def pool(self) -> SchedulePool:
        """Of good programs."""
        return self._tasks.pool

    def view(self) -> NetworkTuner:
        """A source with the same pool and counters of its own, for a search that is to be compared."""
        view = copy.copy(self)
        view._tasks, view._plans, view._answers = self._tasks.view(), {}, {}
        view._tasks.costs = dict(self._shared.dense_costs)
        view._surveys = [survey.copy() for survey in self._shared.surveys] or self._new_surveys()
        view._block_sparse = {
            kind: survey.copy() for kind, survey in self._shared.block_sparse.items()
        }
        return view

    def tune_dense(self, on_task: OnTask | None = None) -> None:
        """Tunes every task of the dense network, surveying all variants first, and makes the pool from
        the best programs.

        Args:
            on_task: called with the number of tasks done after each.
        """
        dense, settings = self._variants.network.dense, self._settings
        self._surveys = self._new_surveys()
        done = 0
        for name, effort in (("survey", settings.survey), ("dense", settings.dense)):
            jobs = self._jobs(dense, _SURVEY_TOLERANCE)
            for job in jobs.values():
                self._tasks.tune(job, name, effort)
                done += 1
                if on_task is not None:
                    on_task(done)
            self._record_variants(dense)
        self._shared.surveys = [survey.copy() for survey in self._surveys]
        self._tasks.cross_apply(jobs, settings.n_shared)
        self._keep_dense()

    def tune_block_sparse(self, plans: Sequence[Plan], on_task: OnTask | None = None) -> None:
        """Tunes tasks of layers that are pruned by schemes as hard as dense ones, before a search
        believes what blocks cost.

        Blocks have no programs in the dense network's pool. What is found here is theirs, and says
        which variants suit them. What a few
        random programs leave far behind the dense layer is not looked at further.

        Args:
            plans: each prunes all layers that it can by one kind of scheme.
            on_task: called with the number of plans done after each.
        """
        dense = [cost.latency_s for cost in self.measure(self._variants.network.dense)]
        for done, plan in enumerate(plans, start=1):
            for name, effort in (
                ("survey", self._settings.survey),
                ("dense", self._settings.dense),
            ):
                jobs = self._jobs(plan, _SURVEY_TOLERANCE)
                for key, at in self._block_sparse_tasks(plan).items():
                    if (
                        name == "survey"
                        or self._tasks.costs[key].latency_s <= _PROMISING * dense[at]
                    ):
                        self._tasks.tune(jobs[key], name, effort)
                        self._tasks.add_to_pool([jobs[key].workload], self._settings.n_shared)
                self._record_variants(plan)
            self._shared.block_sparse = {
                kind: survey.copy() for kind, survey in self._block_sparse.items()
            }
            if on_task is not None:
                on_task(done)

    def n_dense_tasks(self) -> int:
        """Tasks that `tune_dense` goes through at most:

        those of the dense network in every variant, twice.
        """
        return 2 * len(
            {
                w.key
                for variants in self._variants.workloads(self._variants.network.dense)
                for w in variants
            }
        )

    def extend_pool(self, plans: Iterable[Plan], on_task: OnTask | None = None) -> None:
        """Measures plans and passes good programs between neighbouring shapes, the dense ones
        included, before a search begins.

        Args:
            plans: narrower ones, spread over what the search will visit.
            on_task: called with the number of tasks done after each.
        """
        plans = [self._variants.network.dense, *plans]
        self._settle(plans)
        self._tasks.cross_apply(self._jobs_of(plans), self._settings.n_shared, _NEIGHBOURS, on_task)
        self._plans.clear()
        self._keep_dense()

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Times the tasks of a plan that were not timed before (see `protocols.LatencySource`)."""
        if plan not in self._plans:
            costs = self._composed(plan)
            self._plans[plan] = costs
            self._answers |= {
                w.key: c for w, c in zip(self._variants.network.workloads(plan), costs, strict=True)
            }
        return self._plans[plan]

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Only what was measured: a task that was not has an infinite, unmeasured cost."""
        unknown = TaskCost(latency_s=math.inf, is_measured=False)
        return [self._answers.get(w.key, unknown) for w in workloads]

    def choice(self, plan: Plan) -> VariantChoice:
        """The variants in which a plan is fastest; its tasks are timed where they were not before."""
        while missing := [
            job for key, job in self._jobs(plan).items() if key not in self._tasks.costs
        ]:
            for job in missing:
                self._tasks.tune(job, "near", self._settings.near)
            self._record_variants(plan)
        costs = [
            {f: self._tasks.costs[variants[f].key].latency_s for f in self._offered(at, variants)}
            for at, variants in enumerate(self._variants.workloads(plan))
        ]
        return self._variants.choose(costs, lambda t: self._transpose_s(plan, t))

    def cross_apply(self, plans: Iterable[Plan], on_task: OnTask | None = None) -> None:
        """Tries the best programs of all plans' tasks on each other, the dense shapes included.

        Makes a comparison fair: after it every plan has been offered the best that was found for
        any other,
        and no dense task has had fewer trials than the same task of a pruned network. From here on
        a task costs what the fastest program ever tried on it takes.

        Args:
            plans: the plans to be compared.
            on_task: called with the number of tasks done after each.
        """
        plans = list(dict.fromkeys(plans))
        self._settle(plans)
        jobs = self._jobs_of(plans)
        self._tasks.cross_apply(jobs, self._settings.n_shared, on_task=on_task)
        self._top_up_dense(plans)
        self._tasks.adopt_fastest(job.workload for job in jobs.values())
        self._plans.clear()

    def n_cross_apply_tasks(self, plans: Iterable[Plan]) -> int:
        """Tasks that an exchange goes through."""
        return len(self._jobs_of(plans))

    def best_schedule(self, workload: Workload) -> tuple[ScheduleTrace, float] | None:
        """The fastest program of a task and its seconds; None where none ran."""
        return self._tasks.best_schedule(workload)

    def n_trials(self, workload: Workload) -> int:
        """Programs tried on a task so far, failures included."""
        return self._tasks.n_trials(workload)

    def _keep_dense(self) -> None:
        """What a search knows from the start."""
        dense = self._variants.network.dense
        self._settle([dense])
        self._shared.dense_costs = {key: self._tasks.costs[key] for key in self._jobs(dense)}

    def _settle(self, plans: Sequence[Plan]) -> None:
        """Tunes the plans' tasks in every variant that is worth it, until what one plan says of a variant
        sends no other back to try it.
        """
        for plan in plans:
            self.measure(plan)
        while open_plans := [
            plan for plan in plans if not self._jobs(plan).keys() <= self._tasks.costs.keys()
        ]:
            for plan in open_plans:
                self.choice(plan)

    def _new_surveys(self) -> list[VariantSurvey]:
        return [VariantSurvey(variants) for variants in self._variants.distinct]

    def _record_variants(self, plan: Plan) -> None:
        for at, (distinct, variants) in enumerate(
            zip(self._variants.distinct, self._variants.workloads(plan), strict=True)
        ):
            offered = distinct_variants(variants) if variants[0].is_block_sparse else distinct
            costs = {
                f: self._tasks.costs[variants[f].key].latency_s
                for f in offered
                if variants[f].key in self._tasks.costs
            }
            if costs:
                self._survey(at, variants).record(_size(variants[0]), costs)

    def _block_sparse_tasks(self, plan: Plan) -> dict[str, int]:
        """Tasks of layers that are pruned by schemes, in the variants that are worth trying, with the
        position of a subgraph.
        """
        variants = enumerate(self._variants.workloads(plan))
        return {
            of_variant[f].key: at
            for at, of_variant in variants
            if of_variant[0].is_block_sparse
            for f in self._offered(at, of_variant, _SURVEY_TOLERANCE)
        }

    def _survey(self, subgraph: int, variants: Sequence[Workload]) -> VariantSurvey:
        """How the variants of a subgraph compared; blocks of each kind are a matter of their own."""
        if not variants[0].is_block_sparse:
            return self._surveys[subgraph]
        return self._block_sparse.setdefault(
            (subgraph, variants[0].family), VariantSurvey(distinct_variants(variants))
        )

    def _offered(
        self, subgraph: int, variants: Sequence[Workload], tolerance: float | None = None
    ) -> Sequence[int]:
        return self._survey(subgraph, variants).candidates(
            _size(variants[0]), tolerance or self._settings.variant_tolerance
        )

    def _jobs(self, plan: Plan, tolerance: float | None = None) -> dict[str, TuningTask]:
        """The distinct tasks of a plan, in the variants that are worth trying."""
        whole = self._variants.network.workloads(
            replace(plan, schemes=())
        )  # a layer that is pruned by a scheme is worth what it was
        tasks = [
            (variants[f], whole[at])
            for at, variants in enumerate(self._variants.workloads(plan))
            for f in self._offered(at, variants, tolerance)
        ]
        weights = Counter(w.key for w in whole)
        return {
            w.key: TuningTask(
                w, functools.partial(self._load, w, plan), self._share(plain, weights[plain.key])
            )
            for w, plain in tasks
        }

    def _jobs_of(self, plans: Iterable[Plan]) -> dict[str, TuningTask]:
        return {key: job for plan in plans for key, job in self._jobs(plan).items()}

    def _share(self, workload: Workload, weight: int) -> float:
        """Of the dense network's work, all subgraphs that share the task together;

        one without multiplications counts as 2 %.
        """
        total = max(self._variants.network.macs(self._variants.network.dense), 1)
        return max(0.02, min(1.0, weight * workload.macs / total))

    def _load(self, workload: Workload, plan: Plan) -> tuple[tvm.IRModule, OutputCheck | None]:
        loaded = self._shared.loaded
        if workload.key not in loaded:
            for variant in self._variants.all:
                lowered = variant.lowered(plan)
                for task, call in zip(variant.network.workloads(plan), lowered.calls, strict=True):
                    if task.key not in loaded:
                        loaded[task.key] = checked_task(lowered, call, self._device)
        return loaded[workload.key]

    def _composed(self, plan: Plan) -> list[TaskCost]:
        """What each subgraph takes in its chosen variant, with the transposes of what it reads."""
        choice = self.choice(plan)
        variants = self._variants.workloads(plan)
        costs = [self._tasks.costs[variants[i][f].key] for i, f in enumerate(choice.variants)]
        for transpose in choice.transposes:
            reader = next(
                i
                for i, f in enumerate(choice.variants)
                if transpose in self._variants.maps_read(i, f)
            )
            costs[reader] = replace(
                costs[reader],
                latency_s=costs[reader].latency_s + self._transpose_s(plan, transpose),
            )
        return costs

    def _transpose_s(self, plan: Plan, transpose: Transpose) -> float:
        task = TransposeTask.from_plan(self._variants, plan, transpose)
        workload = task.workload
        if workload.key not in self._tasks.costs:
            job = TuningTask(workload, lambda: (task.module(), None), 0.02)
            self._tasks.tune(job, "transpose", self._settings.transpose)
        return self._tasks.costs[workload.key].latency_s

    def _top_up_dense(self, plans: Sequence[Plan]) -> None:
        """Gives each dense task at least as many trials as the same subgraph had in any plan, in
        variants that only a narrower one came back to as well.
        """
        jobs = self._jobs(self._variants.network.dense, math.inf)
        of_plans = [self._variants.workloads(plan) for plan in plans]
        for at, variants in enumerate(self._variants.workloads(self._variants.network.dense)):
            for f in self._offered(at, variants, math.inf):
                most = max(self.n_trials(of_plan[at][f]) for of_plan in of_plans)
                if (missing := most - self.n_trials(variants[f])) > 0:
                    count = (
                        self._settings.dense.n_random + missing
                    )  # drawing again from the start keeps the recipe plain
                    self._tasks.tune(
                        jobs[variants[f].key],
                        "top-up",
                        TuningBudget(n_pool=0, n_random=count, n_max=count),
                    )


def _size(workload: Workload) -> Channels:
    """What a task has to compute, as the survey of its variants is asked:

    channels read and written; of a pruned layer what is kept of what is read.
    """
    per_channel = max(workload.operator.height**2 * workload.channels_out, 1)
    return (
        (max(1, workload.macs // per_channel), workload.channels_out)
        if workload.is_block_sparse
        else (workload.channels_in, workload.channels_out)
    )
