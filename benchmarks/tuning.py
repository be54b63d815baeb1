"""What a look at a device costs: seconds of a trial, trials of a task, trials of a search, error of an estimate.

Parts of `benchmarks/measurement.py`; each function is one experiment and gives plain figures.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from cprune_rl.agents.greedy import GreedyCPrune
from cprune_rl.agents.searcher import Budget
from cprune_rl.compiler.deploy import build_network, time_interleaved
from cprune_rl.compiler.device import RpcDevice
from cprune_rl.compiler.forms import Forms, find_forms
from cprune_rl.compiler.program import Candidate, Program, random_candidates
from cprune_rl.compiler.search import Effort, ProgramSearch, Task
from cprune_rl.compiler.trials import TrialRunner
from cprune_rl.compiler.tuner import Tuner
from cprune_rl.compiler.workload import ExportedNetwork
from cprune_rl.contracts import LossCurves
from cprune_rl.cost_cache import CostStore, open_store
from cprune_rl.cost_cache.interpolation import CostModel, EstimatedCosts
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems import CurveOracle, open_recorded
from cprune_rl.pruning.groups import CoupledGroups, find_groups
from cprune_rl.pruning.models import build_model
from cprune_rl.pruning.surgery import kept_indices, prune
from cprune_rl.pruning.zoo import MODELS
from cprune_rl.table import Plan, Workload

CPRUNE_TRIALS = 70  # a task, for each candidate (Kim et al., ECCV 2022, section 4; the authors' code)
LOSS = 0.02  # accuracy that the greedy searches below may lose


class Bench:
    """A packaged network on a device, its dense tasks tuned.

    Args:
        name: of the network.
        device: where.
        storage: cost cache; None for one in memory.
    """

    def __init__(self, name: str, device: RpcDevice, storage: str | None) -> None:
        self.name, self.device = name, device
        self.model = build_model(name, 10).eval()
        self.example = torch.zeros(MODELS[name].input_shape)
        self.groups: CoupledGroups = find_groups(self.model, self.example)
        self.forms: Forms = find_forms(name, ExportedNetwork.export(self.model, self.example, self.groups.axes, device.target), self.groups.groups)
        self.store: CostStore = open_store(storage)
        self.tuner = Tuner(self.forms, device, self.store)
        self.tuner.tune_dense()

    def problem(self) -> Problem:
        """Pruning it with the packaged recording's loss curves for an oracle: these experiments are about latency."""
        recorded = open_recorded(self.name)
        network = self.forms.network
        curves = LossCurves(recorded.curves.scale, recorded.curves.power)
        oracle = CurveOracle(network, curves, recorded.dense_accuracy)
        latency = EstimatedCosts(network, self.tuner.view(), CostModel())
        return Problem(self.name, network, latency, oracle, curves, recorded.dense_accuracy, recorded.dense_accuracy - LOSS)


def trial_seconds(bench: Bench, n_candidates: int = 16) -> dict[str, float]:
    """Seconds for a fresh trial, ours against TVM's own builder and runner, on the same candidates with the same repeats."""
    call = bench.forms.all[0].calls[3]
    module = bench.forms.all[0].exported.lowered(bench.forms.network.widths(bench.forms.network.dense)).task(call.function)
    candidates = random_candidates(module, bench.device.target, n_candidates, seed=1)
    bench.device.time_reference()  # both start with what they keep alive already alive
    ours = _timed(lambda: TrialRunner(bench.device, open_store(None), "benchmark").run(_nameless(bench), candidates))
    failed: list[str] = []
    stock = _timed(lambda: failed.extend(_stock_trials(bench, candidates)))
    return {"candidates": len(candidates), "ours_s": ours / len(candidates), "stock_s": stock / len(candidates), "stock_failed": len(failed), "ratio": stock / ours}


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _nameless(bench: Bench) -> Workload:
    return replace(bench.forms.network.workloads(bench.forms.network.dense)[3], key="benchmark")


def _stock_trials(bench: Bench, candidates: Sequence[Candidate]) -> list[str]:
    """As `tune_relax` runs a batch, one build call, then one run call; gives the errors."""
    config = ms.runner.EvaluatorConfig(number=1, repeat=5, min_repeat_ms=5, enable_cpu_cache_flush=False)
    builder, runner = ms.builder.LocalBuilder(max_workers=2), ms.runner.LocalRunner(evaluator_config=config)
    built = builder.build([ms.builder.BuilderInput(c.module, bench.device.target) for c in candidates])
    inputs = []
    for result, candidate in zip(built, candidates, strict=True):
        if result.error_msg is None:
            arguments = ArgInfo.from_entry_func(candidate.module, remove_preproc=True)
            inputs.append(ms.runner.RunnerInput(result.artifact_path, "cpu", arguments))
    results = [future.result() for future in runner.run(inputs)]
    return [str(r.error_msg) for r in (*built, *results) if r.error_msg is not None]


def trials_to_best(bench: Bench, n_shapes: int = 30, n_trials: int = 32, seed: int = 0) -> dict[str, float]:
    """Trials until a program is within 5 % of the best known, starting from the pool and without one.

    The best known is the fastest that either found; both have the same trials. Shapes are convolutions of random plans.
    """
    search, counts, misses = ProgramSearch(bench.device.target), {"pool": [], "none": []}, {"pool": 0, "none": 0}
    runner = TrialRunner(bench.device, bench.store, "benchmark: " + bench.tuner.context)
    for workload, module, pool in _shapes(bench, n_shapes, seed):
        courses = {}
        for label, programs, effort in (("pool", pool, Effort(4, 3, n_trials, worth_s=1e9)), ("none", [], Effort(0, 7, n_trials, worth_s=1e9))):
            course: list[float] = []

            def attempt(candidates: Sequence[Candidate], course: list[float] = course, workload: Workload = workload) -> list[float]:
                course += (found := [m.latency_s for m in runner.run(workload, candidates)])
                return found

            search.run(f"{label} {workload.family}", Task(module, programs, 1.0, seed), effort, attempt)
            courses[label] = np.minimum.accumulate(course)
        best = min(c[-1] for c in courses.values())
        for label, course in courses.items():
            reached = np.flatnonzero(course <= best / 0.95)
            misses[label] += not len(reached)
            counts[label].append(int(reached[0]) + 1 if len(reached) else n_trials)
    figures = {f"{label}_{name}": float(value(c)) for label, c in counts.items() for name, value in (("median", median), ("mean", np.mean))}
    return {"shapes": len(counts["pool"]), **figures, **{f"{label}_never": n for label, n in misses.items()}, "mean_ratio": figures["none_mean"] / figures["pool_mean"]}


def _shapes(bench: Bench, n_shapes: int, seed: int) -> list[tuple[Workload, object, list[Program]]]:
    rng = np.random.default_rng(seed)
    network, form = bench.forms.network, bench.forms.all[-1]
    found: dict[str, tuple[Workload, object, list[Program]]] = {}
    while len(found) < n_shapes:
        plan = Plan(tuple(int(rng.integers(g.minimum, g.channels)) for g in network.groups))
        lowered = form.exported.lowered(network.widths(plan))
        at = int(rng.integers(len(network.subgraphs)))
        workload = form.network.workloads(plan)[at]
        if workload.operator.name == "conv2d":
            found[workload.key] = (workload, lowered.task(lowered.calls[at].function), bench.tuner.pool.nearest(workload))
    return list(found.values())


def search_trials(bench: Bench) -> dict[str, float]:
    """Fresh trials of a whole greedy search, ours against what CPrune's protocol would make of the same candidates.

    The protocol tunes every task of every candidate anew with 70 trials; counted, not run.
    """
    problem = bench.problem()
    result = GreedyCPrune().search(problem, Budget())
    network = bench.forms.network
    tasks = sum(len({w.key for w in network.workloads(step.plan)}) for step in result.history)
    fresh = problem.latency.spending.fresh_trials + problem.latency.spending.cached_trials
    dense = result.accepted[0].latency_s
    return {
        "candidates": len(result.history),
        "ours": fresh,
        "cprune": CPRUNE_TRIALS * tasks,
        "ratio": CPRUNE_TRIALS * tasks / max(fresh, 1),
        "speedup_estimate": dense / result.best.latency_s,
    }


def estimate_errors(bench: Bench, n_plans: int = 20, rounds: int = 10, seed: int = 0) -> dict[str, float]:
    """The estimate, a sum of tasks, against the whole compiled network, over plans that greedy CPrune and random walks visit."""
    rng = np.random.default_rng(seed)
    network = bench.forms.network
    visited = [s.plan for s in GreedyCPrune().search(bench.problem(), Budget()).history][: n_plans // 2]
    while len(visited) < n_plans:
        visited.append(Plan(tuple(int(rng.integers(g.minimum, g.channels + 1)) for g in network.groups)))
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        for position, plan in enumerate(dict.fromkeys(visited)):
            model = prune(bench.model, bench.example, kept_indices(bench.groups, plan))
            library = Path(folder) / f"{position}.so"
            estimate = sum(c.latency_s for c in bench.tuner.measure(plan))
            build_network(bench.forms, plan, model, bench.tuner, bench.device, library)
            measured = float(np.median(time_interleaved(bench.device, {"net": library}, tuple(bench.example.shape), rounds)["net"]))
            errors.append(abs(estimate / measured - 1))
    return {"plans": len(errors), "median": float(np.median(errors)), "p90": float(np.quantile(errors, 0.9)), "worst": max(errors)}
