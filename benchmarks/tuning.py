"""Measures what tuning costs: seconds of a trial, trials of a task and a search, estimate errors.

Parts of `benchmarks/measurement.py`; each function is one experiment and gives plain figures.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import tvm
from layout_variants import NEVER_ENOUGH_S, subgraph_task
from numpy.typing import NDArray
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.compiler.deploy.build import build_network
from cprune_rl.compiler.deploy.time_networks import Rounds, time_interleaved
from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.layouts.transposes import TransposeTask
from cprune_rl.compiler.layouts.variants import VariantChoice, find_layout_variants
from cprune_rl.compiler.tuning.budget import TuningBudget
from cprune_rl.compiler.tuning.cost_model import ScheduleCostModel
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.compiler.tuning.schedule import Candidate, ScheduleTrace, random_candidates
from cprune_rl.compiler.tuning.task_tuner import TaskTuner, TuningTask
from cprune_rl.compiler.tuning.trace_search import SearchTask, TraceSearch
from cprune_rl.compiler.tuning.trials import TrialRunner
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.search_result import AcceptedPlan
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache import CostStore, open_store
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.models.registry import build_model
from cprune_rl.models.zoo import MODELS
from cprune_rl.pruning.groups import CoupledGroups, find_groups
from cprune_rl.pruning.surgery import prune

T = TypeVar("T")
# Of a task, for each candidate (Kim et al., ECCV 2022, section 4; the authors' code).
CPRUNE_TRIALS = 70
CPRUNE_BUDGET = TuningBudget(n_pool=0, n_random=24, n_max=CPRUNE_TRIALS, worth_s=NEVER_ENOUGH_S)
LOSS = 0.02  # accuracy that the greedy searches below may lose
_NEAR_BEST = 0.95  # share of the best known speed


class Bench:
    """A packaged network on a device, its dense tasks tuned.

    Args:
        name: of the network.
        device: where.
        storage: cost cache; None for one in memory.
    """

    def __init__(self, name: str, device: RpcDevice, storage: str | None) -> None:
        self.name = name
        self.device = device
        self.model = build_model(name, 10).eval()
        self.example = torch.zeros(MODELS[name].input_shape)
        self.groups: CoupledGroups = find_groups(self.model, self.example)
        exported = ExportedNetwork.export(
            self.model, self.example, self.groups.axes, device.target, self.groups.written
        )
        self.variants = find_layout_variants(name, exported, self.groups.groups)
        self.network: Network = self.variants.network
        self.store: CostStore = open_store(storage)
        self.tuner = NetworkTuner(self.variants, device, self.store)
        self.tuner.tune_dense()

    def problem(self) -> Problem:
        """Make the problem of pruning it, judged by the packaged recording's loss model.

        These experiments are about latency.
        """
        recorded = open_recorded(self.name)
        loss_model = LossModel(recorded.loss_model.scale, recorded.loss_model.power)
        return Problem(
            name=self.name,
            network=self.network,
            latency=InterpolatedLatency(self.network, LatencyInterpolator(), self.tuner.view()),
            oracle=LossModelOracle(self.network, loss_model, recorded.dense_accuracy),
            loss_model=loss_model,
            dense_accuracy=recorded.dense_accuracy,
            floor=recorded.dense_accuracy - LOSS,
        )


def trial_seconds(bench: Bench, sizes: Sequence[int] = (8, 64)) -> list[dict[str, object]]:
    """Time fresh trials of ours and of TVM's own builder and runner, on the same candidates.

    On either side one batch is timed from the call until every result is there. Ours times its
    reference workload and keeps the trials meanwhile. Not timed: drawing candidates, making
    builder, runner and session, and a first batch of two, after which all is alive that a side
    keeps alive. TVM's builder keeps nothing: it starts its processes anew for each batch, which
    stays in its time and is shared by the batch.

    Args:
        bench: a network on a device.
        sizes: candidates of a batch: about as many as our searches try at once, and as many as
            `tune_relax` puts in one.
    """
    lowered = bench.variants.all[0].lowered(bench.network.dense)
    module = lowered.task(lowered.calls[3])
    target = bench.device.target
    first, second, *candidates = random_candidates(module, target, sum(sizes) + 2, seed=1)
    workload = replace(bench.network.workloads(bench.network.dense)[3], key="benchmark")
    runner = TrialRunner(bench.device, open_store(None), "benchmark")
    stock = StockRunner(target)
    runner.run(workload, [first, second])
    stock.run([first, second])
    rows: list[dict[str, object]] = []
    for size in sizes:
        batch = candidates[:size]
        candidates = candidates[size:]
        ours_s, measured = _timed(functools.partial(runner.run, workload, batch))
        stock_s, stock_errors = _timed(functools.partial(stock.run, batch))
        reasons = [error.strip().splitlines()[-1][:200] for error in stock_errors]
        rows.append(
            {
                "candidates": len(batch),
                "ours_s": ours_s / len(batch),
                "ours_failed": sum(m.error is not None for m in measured),
                "stock_s": stock_s / len(batch),
                "stock_failed": len(stock_errors),
                "stock_error": next(iter(reasons), ""),
                "ratio": stock_s / ours_s,
            }
        )
    return rows


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


class StockRunner:
    """TVM's own builder and runner, with as many workers as ours, used as `tune_relax` uses them.

    Args:
        target: what candidates are built for.
    """

    def __init__(self, target: tvm.target.Target) -> None:
        self._target = target
        self._builder = ms.builder.LocalBuilder(max_workers=os.cpu_count() or 1)
        self._runner = ms.runner.LocalRunner(
            evaluator_config=ms.runner.EvaluatorConfig(
                number=1, repeat=5, min_repeat_ms=5, enable_cpu_cache_flush=False
            )
        )

    def run(self, candidates: Sequence[Candidate]) -> list[str]:
        """Build a batch with one call, run it with one call, and return the errors."""
        built = self._builder.build(
            [ms.builder.BuilderInput(c.module, self._target) for c in candidates]
        )
        inputs = []
        for result, candidate in zip(built, candidates, strict=True):
            if result.error_msg is None:
                arguments = ArgInfo.from_entry_func(candidate.module, remove_preproc=True)
                inputs.append(ms.runner.RunnerInput(result.artifact_path, "cpu", arguments))
        results = [future.result() for future in self._runner.run(inputs)]
        return [str(r.error_msg) for r in (*built, *results) if r.error_msg is not None]


def trials_to_best(
    bench: Bench, n_shapes: int = 30, n_trials: int = 32, seed: int = 0
) -> dict[str, float]:
    """Count the trials until a schedule is within 5 % of the best known, with a pool and without.

    The best known is the fastest that either found; both have the same trials. Shapes are
    convolutions of random plans.
    """
    runner = TrialRunner(bench.device, bench.store, "benchmark: " + bench.tuner.tasks.context)
    budgets = {
        "pool": TuningBudget(n_pool=4, n_random=3, n_max=n_trials, worth_s=NEVER_ENOUGH_S),
        "none": TuningBudget(n_pool=0, n_random=7, n_max=n_trials, worth_s=NEVER_ENOUGH_S),
    }
    cost_models: defaultdict[tuple[str, str], ScheduleCostModel] = defaultdict(ScheduleCostModel)
    counts: dict[str, list[int]] = {label: [] for label in budgets}
    n_missed = dict.fromkeys(budgets, 0)
    for workload, module, pool in _shapes(bench, n_shapes, seed):
        task = SearchTask(
            module=module, target=bench.device.target, pool=pool, share=1.0, seed=seed
        )
        courses = {}
        for label, budget in budgets.items():
            search = TraceSearch(task, budget, cost_models[label, workload.family])
            courses[label] = _course(search, runner, workload)
        best = min(course[-1] for course in courses.values())
        for label, course in courses.items():
            reached = np.flatnonzero(course <= best / _NEAR_BEST)
            n_missed[label] += not len(reached)
            counts[label].append(int(reached[0]) + 1 if len(reached) else n_trials)
    figures: dict[str, float] = {"shapes": len(counts["pool"])}
    for label, trials in counts.items():
        figures[f"{label}_median"] = float(np.median(trials))
        figures[f"{label}_mean"] = float(np.mean(trials))
    figures |= {f"{label}_never": n for label, n in n_missed.items()}
    return {**figures, "mean_ratio": figures["none_mean"] / figures["pool_mean"]}


def _course(search: TraceSearch, runner: TrialRunner, workload: Workload) -> NDArray[np.float64]:
    """Run a search; return the seconds of the fastest schedule after each trial."""
    latencies: list[float] = []

    def measure(candidates: Sequence[Candidate]) -> list[float]:
        batch = [m.latency_s for m in runner.run(workload, candidates)]
        latencies.extend(batch)
        return batch

    search.run(measure)
    return np.minimum.accumulate(latencies)


def _shapes(
    bench: Bench, n_shapes: int, seed: int
) -> list[tuple[Workload, tvm.IRModule, list[ScheduleTrace]]]:
    """Draw convolutions, each with its function and the pool's schedules for it."""
    rng = np.random.default_rng(seed)
    variant = bench.variants.all[-1]
    shapes: dict[str, tuple[Workload, tvm.IRModule, list[ScheduleTrace]]] = {}
    while len(shapes) < n_shapes:
        widths = [int(rng.integers(g.minimum, g.channels)) for g in bench.network.groups]
        plan = Plan(tuple(widths))
        at = int(rng.integers(len(bench.network.subgraphs)))
        workload = variant.network.workloads(plan)[at]
        if workload.operator.name == "conv2d":
            placed = variant.placed(plan)[at]
            pool = bench.tuner.tasks.pool.nearest(workload)
            shapes[workload.key] = workload, placed.lowered.task(placed.call), pool
    return list(shapes.values())


def search_trials(bench: Bench, protocol: TuningBudget = CPRUNE_BUDGET) -> dict[str, float]:
    """Count the trials of a whole greedy search, ours and by CPrune's protocol.

    The protocol tunes every task of the dense network and of every candidate anew with 70 trials.
    It is counted, and run on the final plan only: what its schedules take there, next to what ours
    do. `ratio` includes the trials on the dense network, for us those of the survey of variants
    too.

    Args:
        bench: a network on a device, its dense tasks tuned with an empty cost cache: a schedule
            that the cache had would count for nothing.
        protocol: how a task of the final plan is tuned from scratch.
    """
    problem = bench.problem()
    result = CPrune().search(problem, Budget())
    ours_dense = bench.tuner.spending.fresh_trials
    ours = problem.latency.spending.fresh_trials
    cprune_dense = _protocol_trials(bench.network, [bench.network.dense])
    cprune = _protocol_trials(bench.network, [step.plan for step in result.history])
    return {
        "candidates": len(result.history),
        "ours_dense": ours_dense,
        "ours_search": ours,
        "cprune_dense": cprune_dense,
        "cprune_search": cprune,
        "ratio_of_search": cprune / max(ours, 1),
        "ratio": (cprune_dense + cprune) / max(ours_dense + ours, 1),
        "speedup_estimate": result.accepted[0].latency_s / result.best.latency_s,
        **_final_plan(bench, result.best, protocol),
    }


def _protocol_trials(network: Network, plans: Iterable[Plan]) -> int:
    return CPRUNE_TRIALS * sum(len({w.key for w in network.workloads(plan)}) for plan in plans)


def _final_plan(bench: Bench, best: AcceptedPlan, protocol: TuningBudget) -> dict[str, float]:
    """Estimate one plan by our search and by the protocol.

    The protocol is run in the plain variant, which is all that CPrune has, and in the variants
    that we chose. Its tuner begins with an empty store and no pool; its ranking learns from one
    task to the next, as TVM's does.
    """
    tuner = TaskTuner(bench.device, open_store(None), seed=0, since=math.inf)
    figures: dict[str, float] = {"ours_us": best.latency_s * 1e6}
    choices = {
        "plain": bench.variants.uniform_choice(0),
        "our_forms": bench.tuner.choice(best.plan),
    }
    for label, choice in choices.items():
        tasks = _tasks(bench, best.plan, choice)
        seconds = sum(tuner.tune(task, "from scratch", protocol).latency_s for task in tasks)
        figures[f"cprune_{label}_us"] = seconds * 1e6
        figures[f"cprune_{label}_over_ours"] = seconds / best.latency_s
    return {**figures, "cprune_trials_run": tuner.spending.fresh_trials}


def _tasks(bench: Bench, plan: Plan, choice: VariantChoice) -> list[TuningTask]:
    """Return the tasks of a plan in chosen variants, those of its transposes included."""
    tasks = [
        subgraph_task(bench.device, bench.variants.all[variant], plan, at=at)
        for at, variant in enumerate(choice.variants)
    ]
    for transpose in choice.transposes:
        task = TransposeTask.from_plan(bench.variants, plan, transpose)
        tasks.append(TuningTask(task.workload, lambda task=task: (task.module(), None), share=1.0))
    return tasks


def estimate_errors(
    bench: Bench, n_plans: int = 20, rounds: int = 10, seed: int = 0
) -> dict[str, float]:
    """Compare the estimate, a sum of tasks, with the whole compiled network.

    Plans are those that greedy CPrune and random walks visit.
    """
    rng = np.random.default_rng(seed)
    steps = CPrune().search(bench.problem(), Budget()).history
    plans = [step.plan for step in steps][: n_plans // 2]
    while len(plans) < n_plans:
        widths = [int(rng.integers(g.minimum, g.channels + 1)) for g in bench.network.groups]
        plans.append(Plan(tuple(widths)))
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        for position, plan in enumerate(dict.fromkeys(plans)):
            model = prune(bench.model, bench.groups, plan)
            library = Path(folder) / f"{position}.so"
            estimate_s = sum(cost.latency_s for cost in bench.tuner.measure(plan))
            build_network(bench.tuner, plan, model, path=library)
            shape = tuple(bench.example.shape)
            timed = time_interleaved(bench.device, {"net": library}, shape, rounds=Rounds(rounds))
            errors.append(abs(estimate_s / float(np.median(timed["net"])) - 1))
    return {
        "plans": len(errors),
        "median": float(np.median(errors)),
        "p90": float(np.quantile(errors, 0.9)),
        "worst": max(errors),
    }
