"""Measures plans on a device: the source of latencies behind `cprune_rl/CPrune-v0`.

The dense network's tasks are tuned hard, in every layout variant, and their best schedules make the
pool. A task at another shape tries transferred schedules of the pool and a few random ones, and
evolves them as long as that pays. Those first ones depend on the task alone, not on the order of a
search. Which mutants are tried depends on the order too: the tasks of a family share a learned
ranking, which is empty after `--resume`.

The dense network shows which variants are worth trying. A task so much narrower that the answer may
differ is asked again, and each kind of block of a layer that is pruned by schemes is asked by
itself. The variants of the whole network are then chosen together.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import tvm

from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.layouts.choice import choose_variants
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
from cprune_rl.compiler.tuning.task_tuner import OnTask, TaskTuner, TuningTask, ignore_progress
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Spending, TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache import CostStore

__all__ = ["NetworkTuner"]

# Tolerance after a survey: a dozen random schedules say little more.
_SURVEY_TOLERANCE = 2.0
# A pruned layer that the survey shows to be slower than this many dense ones is not tuned on.
_PROMISING = 1.6
# Shapes whose schedules a shape is offered before a search, itself included.
_NEIGHBOURS = 3
# Share of the network's work that a task counts for at least: some have no multiplications.
_LEAST_SHARE = 0.02

_SurveyKey = tuple[int, str]
"""Position of a subgraph, and the family of its blocks; empty where it has none."""


@dataclass
class _Shared:
    """What the searches on one tuner share of its network.

    Attributes:
        functions: of tasks, with their checks, by key.
        surveys: what is known of variants when a search begins.
        dense_costs: of the dense network's tasks.
    """

    functions: dict[str, tuple[tvm.IRModule, OutputCheck | None]] = field(default_factory=dict)
    surveys: dict[_SurveyKey, VariantSurvey] = field(default_factory=dict)
    dense_costs: dict[str, TaskCost] = field(default_factory=dict)


class NetworkTuner:
    """A `LatencySource` that times schedules.

    Attributes:
        tasks: tunes single tasks.

    Args:
        variants: the network whose tasks are asked for, in every layout.
        device: where schedules are timed.
        store: keeps every trial.
        settings: how hard tasks are tuned.
        since: trials that the store got after this moment, in seconds since the epoch, count as
            fresh, though another search of the same run made them: each pays as if it were alone.
    """

    def __init__(
        self,
        variants: LayoutVariants,
        device: RpcDevice,
        store: CostStore,
        settings: TuningSettings | None = None,
        since: float = math.inf,
    ) -> None:
        self.variants = variants
        self.device = device
        self._settings = settings or TuningSettings()
        self.tasks = TaskTuner(device, store, self._settings.seed, since=since)
        self._shared = _Shared()
        self._surveys: dict[_SurveyKey, VariantSurvey] = {}
        self._plans: dict[Plan, list[TaskCost]] = {}
        self._measured: dict[str, TaskCost] = {}

    @property
    def spending(self) -> Spending:
        """Running totals."""
        return self.tasks.spending

    def view(self) -> NetworkTuner:
        """Return a source with the same pool and counters of its own, for one search."""
        view = copy.copy(self)
        view.tasks = self.tasks.view(self._shared.dense_costs)
        view._surveys = _copied(self._shared.surveys)
        view._plans = {}
        view._measured = {}
        return view

    def n_dense_tasks(self) -> int:
        """Count the tasks that `tune_dense` goes through at most: every variant, twice."""
        variants = self.variants.workloads(self.variants.network.dense)
        return 2 * len({w.key for workloads in variants for w in workloads})

    def tune_dense(self, on_task: OnTask = ignore_progress) -> None:
        """Tune every task of the dense network, and make the pool from the best schedules.

        All variants are surveyed first.
        """
        dense = self.variants.network.dense
        self._surveys.clear()
        done = itertools.count(1)
        for name, budget in self._stages():
            tasks = self._tuning_tasks([dense], _SURVEY_TOLERANCE)
            for task in tasks.values():
                self.tasks.tune(task, name, budget)
                on_task(next(done))
            self._record_variants(dense)
        self._shared.surveys = _copied(self._surveys)
        self.tasks.cross_apply(tasks, self._settings.n_shared)
        self._keep_dense_costs()

    def tune_block_sparse(self, plans: Sequence[Plan], on_task: OnTask = ignore_progress) -> None:
        """Tune layers that are pruned by schemes as hard as dense ones.

        The dense network's pool has no schedules of blocks, so a search could not believe what
        they cost. What is found here fills the pool and says which variants suit blocks. What a
        survey leaves far behind the dense layer is not tuned on.

        Args:
            plans: each prunes all layers that it can by one kind of scheme.
            on_task: told of each plan.
        """
        dense = self.measure(self.variants.network.dense)
        for done, plan in enumerate(plans, start=1):
            for name, budget in self._stages():
                tasks = self._tuning_tasks([plan], _SURVEY_TOLERANCE)
                for key, subgraph in self._block_sparse_tasks(plan).items():
                    limit_s = _PROMISING * dense[subgraph].latency_s
                    if name == "survey" or self.tasks.costs[key].latency_s <= limit_s:
                        self.tasks.tune(tasks[key], name, budget)
                        self.tasks.add_to_pool([tasks[key].workload], self._settings.n_shared)
                self._record_variants(plan)
            self._shared.surveys |= _copied(
                {key: survey for key, survey in self._surveys.items() if key[1]}
            )
            on_task(done)

    def extend_pool(self, plans: Iterable[Plan], on_task: OnTask = ignore_progress) -> None:
        """Measure plans and pass good schedules between neighbouring shapes before a search.

        Args:
            plans: narrower ones, spread over what the search will visit; the dense one is added.
            on_task: told of each task.
        """
        plans = [self.variants.network.dense, *plans]
        self._settle(plans)
        tasks = self._tuning_tasks(plans)
        self.tasks.cross_apply(tasks, self._settings.n_shared, _NEIGHBOURS, on_task=on_task)
        self._plans.clear()
        self._keep_dense_costs()

    def cross_apply(self, plans: Iterable[Plan], on_task: OnTask = ignore_progress) -> None:
        """Try the best schedules of all plans' tasks on each other, the dense shapes included.

        This makes a comparison fair. Every plan was offered the best that was found for any other,
        and no dense task had fewer trials than the same task of a pruned network. From here on a
        task costs what the fastest schedule takes that anybody tried.

        Args:
            plans: to be compared.
            on_task: told of each task.
        """
        plans = list(dict.fromkeys(plans))
        self._settle(plans)
        tasks = self._tuning_tasks(plans)
        self.tasks.cross_apply(tasks, self._settings.n_shared, on_task=on_task)
        self._match_dense_trials(plans)
        self.tasks.adopt_fastest(task.workload for task in tasks.values())
        self._plans.clear()

    def n_cross_apply_tasks(self, plans: Iterable[Plan]) -> int:
        """Count the tasks that `cross_apply` goes through."""
        return len(self._tuning_tasks(plans))

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Return each subgraph's cost in its chosen variant, with the transposes of what it reads.

        Tasks that were not timed before are timed.
        """
        if plan not in self._plans:
            choice = self.choice(plan)
            subgraphs = zip(self.variants.workloads(plan), choice.variants, strict=True)
            costs = [self.tasks.costs[workloads[variant].key] for workloads, variant in subgraphs]
            for transpose in choice.transposes:
                at = self._first_reader(choice, transpose)
                latency_s = costs[at].latency_s + self._transpose_s(plan, transpose)
                costs[at] = replace(costs[at], latency_s=latency_s)
            self._plans[plan] = costs
            workloads = self.variants.network.workloads(plan)
            self._measured |= {w.key: cost for w, cost in zip(workloads, costs, strict=True)}
        return self._plans[plan]

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Return what was measured; a task that was not has an infinite, unmeasured cost."""
        unknown = TaskCost(latency_s=math.inf, is_measured=False)
        return [self._measured.get(w.key, unknown) for w in workloads]

    def choice(self, plan: Plan) -> VariantChoice:
        """Choose the variants in which a plan is fastest, and time what was not timed before."""
        while missing := self._untuned(plan):
            for task in missing:
                self.tasks.tune(task, "near", self._settings.near)
            self._record_variants(plan)
        costs = []
        for subgraph, workloads in enumerate(self.variants.workloads(plan)):
            offered = self._worth_trying(subgraph, workloads)
            costs.append({v: self.tasks.costs[workloads[v].key].latency_s for v in offered})
        return choose_variants(self.variants, costs, lambda t: self._transpose_s(plan, t))

    def tune_choice(self, plan: Plan, choice: VariantChoice) -> None:
        """Tune the tasks of a given choice of variants that were not tuned before."""
        tasks = self._tuning_tasks([plan], math.inf)
        chosen = zip(self.variants.workloads(plan), choice.variants, strict=True)
        for workload in (workloads[variant] for workloads, variant in chosen):
            if workload.key not in self.tasks.costs:
                self.tasks.tune(tasks[workload.key], "near", self._settings.near)
        for transpose in choice.transposes:
            self._transpose_s(plan, transpose)

    def _stages(self) -> list[tuple[str, TuningBudget]]:
        return [("survey", self._settings.survey), ("dense", self._settings.dense)]

    def _keep_dense_costs(self) -> None:
        """Keep what a search knows from the start."""
        dense = self.variants.network.dense
        self._settle([dense])
        self._shared.dense_costs = {
            key: self.tasks.costs[key] for key in self._tuning_tasks([dense])
        }

    def _settle(self, plans: Sequence[Plan]) -> None:
        """Tune the plans' tasks in every variant worth trying.

        What one plan says of a variant may send another back to try it, so it goes on until none
        is sent back.
        """
        for plan in plans:
            self.measure(plan)
        while unsettled := [plan for plan in plans if self._untuned(plan)]:
            for plan in unsettled:
                self.choice(plan)

    def _untuned(self, plan: Plan) -> list[TuningTask]:
        tasks = self._tuning_tasks([plan])
        return [task for key, task in tasks.items() if key not in self.tasks.costs]

    def _tuning_tasks(
        self, plans: Iterable[Plan], tolerance: float | None = None
    ) -> dict[str, TuningTask]:
        """Return the distinct tasks of plans in the variants worth trying, by key."""
        tasks: dict[str, TuningTask] = {}
        for plan in plans:
            # A layer that is pruned by a scheme is worth what it was.
            unpruned = self.variants.network.workloads(replace(plan, schemes=()))
            weights = Counter(workload.key for workload in unpruned)
            for subgraph, workloads in enumerate(self.variants.workloads(plan)):
                share = self._share(unpruned[subgraph], weights[unpruned[subgraph].key])
                for variant in self._worth_trying(subgraph, workloads, tolerance):
                    workload = workloads[variant]
                    load = functools.partial(self._load, workload, plan)
                    tasks[workload.key] = TuningTask(workload, load, share)
        return tasks

    def _share(self, workload: Workload, weight: int) -> float:
        """Return a task's share of the dense network's work, over all subgraphs that have it."""
        total = max(self.variants.network.macs(self.variants.network.dense), 1)
        return max(_LEAST_SHARE, min(1.0, weight * workload.macs / total))

    def _load(self, workload: Workload, plan: Plan) -> tuple[tvm.IRModule, OutputCheck | None]:
        """Return a task's function and check; those of the whole plan are made together."""
        functions = self._shared.functions
        if workload.key in functions:
            return functions[workload.key]
        for variant in self.variants.all:
            placed = variant.placed(plan)
            for task, at in zip(variant.network.workloads(plan), placed, strict=True):
                if task.key not in functions:
                    functions[task.key] = checked_task(at.lowered, at.call, self.device)
        return functions[workload.key]

    def _record_variants(self, plan: Plan) -> None:
        """Show the surveys what the variants of a plan's tasks cost."""
        for subgraph, workloads in enumerate(self.variants.workloads(plan)):
            costs = {}
            for variant in self._distinct(subgraph, workloads):
                if workloads[variant].key in self.tasks.costs:
                    costs[variant] = self.tasks.costs[workloads[variant].key].latency_s
            if costs:
                self._survey(subgraph, workloads).record(_size(workloads[0]), costs)

    def _block_sparse_tasks(self, plan: Plan) -> dict[str, int]:
        """Find the tasks that are pruned by schemes, in the variants worth trying.

        Returns:
            The position of the subgraph of each.
        """
        subgraph_of = {}
        for subgraph, workloads in enumerate(self.variants.workloads(plan)):
            if workloads[0].is_block_sparse:
                for variant in self._worth_trying(subgraph, workloads, _SURVEY_TOLERANCE):
                    subgraph_of[workloads[variant].key] = subgraph
        return subgraph_of

    def _worth_trying(
        self, subgraph: int, workloads: Sequence[Workload], tolerance: float | None = None
    ) -> Sequence[int]:
        """Return the variants that may be a subgraph's fastest.

        Args:
            subgraph: its position.
            workloads: its task in each variant.
            tolerance: factor by which a variant may have been slower; None for the settings'.
        """
        survey = self._survey(subgraph, workloads)
        return survey.candidates(_size(workloads[0]), tolerance or self._settings.variant_tolerance)

    def _survey(self, subgraph: int, workloads: Sequence[Workload]) -> VariantSurvey:
        """Return how a subgraph's variants compared; every kind of block has its own survey."""
        key = (subgraph, workloads[0].family if workloads[0].is_block_sparse else "")
        if key not in self._surveys:
            self._surveys[key] = VariantSurvey(self._distinct(subgraph, workloads))
        return self._surveys[key]

    def _distinct(self, subgraph: int, workloads: Sequence[Workload]) -> Sequence[int]:
        """Return the variants in which a subgraph is another task than in those before them."""
        if not workloads[0].is_block_sparse:
            return self.variants.distinct[subgraph]
        return distinct_variants(workloads)

    def _first_reader(self, choice: VariantChoice, transpose: Transpose) -> int:
        """Return the first subgraph that reads a transposed map: it is charged with it."""
        return next(
            subgraph
            for subgraph, variant in enumerate(choice.variants)
            if transpose in self.variants.maps_read(subgraph, variant)
        )

    def _transpose_s(self, plan: Plan, transpose: Transpose) -> float:
        task = TransposeTask.from_plan(self.variants, plan, transpose)
        workload = task.workload
        if workload.key not in self.tasks.costs:
            tuning_task = TuningTask(workload, lambda: (task.module(), None), _LEAST_SHARE)
            self.tasks.tune(tuning_task, "transpose", self._settings.transpose)
        return self.tasks.costs[workload.key].latency_s

    def _match_dense_trials(self, plans: Sequence[Plan]) -> None:
        """Give each dense task at least as many trials as the same subgraph had in any plan.

        This holds for variants too that only a narrower plan came back to.
        """
        dense = self.variants.network.dense
        tasks = self._tuning_tasks([dense], math.inf)
        compared = [self.variants.workloads(plan) for plan in plans]
        for subgraph, workloads in enumerate(self.variants.workloads(dense)):
            for variant in self._worth_trying(subgraph, workloads, math.inf):
                workload = workloads[variant]
                most = max(self.tasks.n_trials(plan[subgraph][variant]) for plan in compared)
                missing = most - self.tasks.n_trials(workload)
                if missing > 0:
                    # Drawing again from the start keeps the tuning key plain.
                    count = self._settings.dense.n_random + missing
                    budget = TuningBudget(n_pool=0, n_random=count, n_max=count)
                    self.tasks.tune(tasks[workload.key], "top-up", budget)


def _copied(surveys: Mapping[_SurveyKey, VariantSurvey]) -> dict[_SurveyKey, VariantSurvey]:
    return {key: survey.copy() for key, survey in surveys.items()}


def _size(workload: Workload) -> Channels:
    """Return the channels read and written, by which surveys compare shapes.

    Of a pruned layer, only what is kept of what it reads counts.
    """
    if not workload.is_block_sparse:
        return workload.channels_in, workload.channels_out
    per_channel = max(workload.operator.height**2 * workload.channels_out, 1)
    return max(1, workload.macs // per_channel), workload.channels_out
