"""What a look at a device costs:

seconds of a trial, trials of a task, trials of a search, error of an estimate.

Parts of `benchmarks/measurement.py`; each function is one experiment and gives plain figures.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
import tvm
from torch import nn
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.compiler.deploy.build import build_network, time_interleaved
from cprune_rl.compiler.devices.rpc_device import RpcDevice
from cprune_rl.compiler.devices.target import vector_width
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.kernels.packed_conv import block_size
from cprune_rl.compiler.layouts.transposes import TransposeTask
from cprune_rl.compiler.layouts.variants import (
    LayoutVariant,
    LayoutVariants,
    find_layout_variants,
)
from cprune_rl.compiler.tuning.budget import TuningBudget
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.compiler.tuning.output_check import checked_task
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
CPRUNE_TRIALS = (
    70  # a task, for each candidate (Kim et al., ECCV 2022, section 4; the authors' code)
)
LOSS = 0.02  # accuracy that the greedy searches below may lose
_NEVER_ENOUGH_S = 1e9  # what 1 % of a network is worth to a search that is to use up its trials
CPRUNE_EFFORT = TuningBudget(n_pool=0, n_random=24, n_max=CPRUNE_TRIALS, worth_s=_NEVER_ENOUGH_S)
_EQUAL = TuningBudget(n_pool=0, n_random=12, n_max=32, worth_s=_NEVER_ENOUGH_S)  # of each variant
_VARIANTS = ("plain", "packed", "winograd")  # in the order of `LayoutVariants.all`


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
        self.variants: LayoutVariants = find_layout_variants(
            name,
            ExportedNetwork.export(self.model, self.example, self.groups.axes, device.target),
            self.groups.groups,
        )
        self.store: CostStore = open_store(storage)
        self.tuner = NetworkTuner(self.variants, device, self.store)
        self.tuner.tune_dense()

    def problem(self) -> Problem:
        """Pruning it with the packaged recording's loss model for an oracle:

        these experiments are about latency.
        """
        recorded = open_recorded(self.name)
        network = self.variants.network
        loss_model = LossModel(recorded.loss_model.scale, recorded.loss_model.power)
        oracle = LossModelOracle(network, loss_model, recorded.dense_accuracy)
        latency = InterpolatedLatency(network, LatencyInterpolator(), self.tuner.view())
        return Problem(
            name=self.name,
            network=network,
            latency=latency,
            oracle=oracle,
            loss_model=loss_model,
            dense_accuracy=recorded.dense_accuracy,
            floor=recorded.dense_accuracy - LOSS,
        )


def trial_seconds(bench: Bench, sizes: Sequence[int] = (8, 64)) -> list[dict[str, object]]:
    """Seconds for a fresh trial, ours against TVM's own builder and runner, on the same candidates
    with the same repeats.

    Timed on either side: one batch built and run, until every result is there. Ours looks at its
    reference workload
    and keeps the trials meanwhile. Not timed: drawing candidates, making builder, runner and
    session, and a batch of two
    other candidates, after which all is alive that a side keeps alive between batches. TVM's
    builder keeps nothing: it
    starts its processes anew for each batch, which stays in its time and is shared by the batch.

    Args:
        bench: a network on a device.
        sizes: candidates of a batch: about as many as our searches try at once, and as many as
            `tune_relax` puts in one.
    """
    lowered = bench.variants.all[0].lowered(bench.variants.network.dense)
    module = lowered.task(lowered.calls[3])
    first, second, *candidates = random_candidates(
        module, bench.device.target, sum(sizes) + 2, seed=1
    )
    workload, runner, stock = (
        _nameless(bench),
        TrialRunner(bench.device, open_store(None), "benchmark"),
        StockRunner(bench.device.target),
    )
    runner.run(workload, [first, second])
    stock.run([first, second])
    rows: list[dict[str, object]] = []
    for size in sizes:
        batch, candidates = candidates[:size], candidates[size:]
        ours_s, measured = _timed(functools.partial(runner.run, workload, batch))
        stock_s, stock_errors = _timed(functools.partial(stock.run, batch))
        rows.append(
            {
                "candidates": len(batch),
                "ours_s": ours_s / len(batch),
                "ours_failed": sum(m.error is not None for m in measured),
                "stock_s": stock_s / len(batch),
                "stock_failed": len(stock_errors),
                "stock_error": stock_errors[0].strip().splitlines()[-1][:200]
                if stock_errors
                else "",
                "ratio": stock_s / ours_s,
            }
        )
    return rows


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _nameless(bench: Bench) -> Workload:
    return replace(
        bench.variants.network.workloads(bench.variants.network.dense)[3], key="benchmark"
    )


class StockRunner:
    """TVM's own builder and runner with as many workers as ours has, used as `tune_relax` uses
    them.

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
        """A batch: one build call, then one run call; gives the errors."""
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
    """Trials until a program is within 5 % of the best known, starting from the pool and without
    one.

    The best known is the fastest that either found; both have the same trials. Shapes are
    convolutions of random plans.
    """
    search, counts, misses = (
        TraceSearch(bench.device.target),
        {"pool": [], "none": []},
        {"pool": 0, "none": 0},
    )
    runner = TrialRunner(bench.device, bench.store, "benchmark: " + bench.tuner.context)
    for workload, module, pool in _shapes(bench, n_shapes, seed):
        courses = {}
        for label, programs, effort in (
            ("pool", pool, TuningBudget(n_pool=4, n_random=3, n_max=n_trials, worth_s=1e9)),
            ("none", [], TuningBudget(n_pool=0, n_random=7, n_max=n_trials, worth_s=1e9)),
        ):
            course: list[float] = []

            def attempt(
                candidates: Sequence[Candidate],
                course: list[float] = course,
                workload: Workload = workload,
            ) -> list[float]:
                course += (found := [m.latency_s for m in runner.run(workload, candidates)])
                return found

            search.run(
                f"{label} {workload.family}",
                SearchTask(module, programs, 1.0, seed),
                effort,
                attempt,
            )
            courses[label] = np.minimum.accumulate(course)
        best = min(c[-1] for c in courses.values())
        for label, course in courses.items():
            reached = np.flatnonzero(course <= best / 0.95)
            misses[label] += not len(reached)
            counts[label].append(int(reached[0]) + 1 if len(reached) else n_trials)
    figures = {
        f"{label}_{name}": float(value(c))
        for label, c in counts.items()
        for name, value in (("median", median), ("mean", np.mean))
    }
    return {
        "shapes": len(counts["pool"]),
        **figures,
        **{f"{label}_never": n for label, n in misses.items()},
        "mean_ratio": figures["none_mean"] / figures["pool_mean"],
    }


def _shapes(
    bench: Bench, n_shapes: int, seed: int
) -> list[tuple[Workload, object, list[ScheduleTrace]]]:
    rng = np.random.default_rng(seed)
    network, variant = bench.variants.network, bench.variants.all[-1]
    found: dict[str, tuple[Workload, object, list[ScheduleTrace]]] = {}
    while len(found) < n_shapes:
        plan = Plan(tuple(int(rng.integers(g.minimum, g.channels)) for g in network.groups))
        lowered = variant.lowered(plan)
        at = int(rng.integers(len(network.subgraphs)))
        workload = variant.network.workloads(plan)[at]
        if workload.operator.name == "conv2d":
            found[workload.key] = (
                workload,
                lowered.task(lowered.calls[at]),
                bench.tuner.tasks.pool.nearest(workload),
            )
    return list(found.values())


def search_trials(bench: Bench, protocol: TuningBudget = CPRUNE_EFFORT) -> dict[str, float]:
    """Trials of a whole greedy search, ours against what CPrune's protocol would make of the same
    candidates, and what those would gain.

    The protocol tunes every task of the dense network and of every candidate anew with 70 trials.
    It is counted, and run
    on the final plan only: what its programs take there, next to what ours do. `ratio` has the
    trials on the dense network
    in it, for us those of the survey of variants too.

    Args:
        bench: a network on a device, its dense tasks tuned with an empty cost cache: a program that
            the cache had would count for nothing.
        protocol: how a task of the final plan is tuned from scratch.
    """
    problem, network = bench.problem(), bench.variants.network
    result = CPrune().search(problem, Budget())
    ours_dense, ours = bench.tuner.spending.fresh_trials, problem.latency.spending.fresh_trials
    cprune_dense, cprune = (
        _protocol_trials(network, [network.dense]),
        _protocol_trials(network, [step.plan for step in result.history]),
    )
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
    """Estimates of one plan:

    by our search, and by the protocol, in the plain variant, which is all that CPrune has, and in the
    variants that we chose.

    The protocol's tuner begins with an empty store and no pool; its ranking learns from one task to
    the next, as TVM's does.
    """
    tuner = TaskTuner(bench.device, open_store(None), seed=0, since=math.inf)
    figures: dict[str, float] = {"ours_us": best.latency_s * 1e6}
    for label, choice in (
        ("plain", bench.variants.uniform_choice(0)),
        ("our_forms", bench.tuner.choice(best.plan)),
    ):
        jobs = [
            _job(bench.device, bench.variants.all[variant], best.plan, at)
            for at, variant in enumerate(choice.variants)
        ]
        transposes = [
            TransposeTask.from_plan(bench.variants, best.plan, t) for t in choice.transposes
        ]
        jobs += [TuningTask(t.workload, lambda t=t: (t.module(), None), 1.0) for t in transposes]
        seconds = sum(tuner.tune(job, "from scratch", protocol).latency_s for job in jobs)
        figures |= {
            f"cprune_{label}_us": seconds * 1e6,
            f"cprune_{label}_over_ours": seconds / best.latency_s,
        }
    return {**figures, "cprune_trials_run": tuner.spending.fresh_trials}


def _job(device: RpcDevice, variant: LayoutVariant, plan: Plan, at: int) -> TuningTask:
    """A subgraph of a plan in one variant, worth all its trials;

    its output is checked as a tuner's is.
    """
    lowered = variant.lowered(plan)
    call = lowered.calls[at]
    return TuningTask(
        variant.network.workloads(plan)[at], lambda: checked_task(lowered, call, device), 1.0
    )


@dataclass(frozen=True)
class Convolution:
    """A shape to compare the variants on.

    Attributes:
        kernel: height and width.
        stride: vertical and horizontal.
        n_in: channels read.
        n_out: channels written.
        height: of the square map that is read.
    """

    kernel: int
    stride: int
    n_in: int
    n_out: int
    height: int

    def padded(self, lanes: int) -> Convolution:
        """The same with its channels filled up to whole blocks, as a network without tails has them
        on both sides.
        """
        n_in, n_out = (
            math.ceil(n / block_size(n, lanes)) * block_size(n, lanes)
            for n in (self.n_in, self.n_out)
        )
        return replace(self, n_in=n_in, n_out=n_out)

    def variants(self, target: tvm.target.Target) -> tuple[LayoutVariants, int]:
        """A network around it, in every variant, and its position there.

        Convolutions stand before and after it: alone it would read the image, and write a map that
        is transposed back.
        """
        tested = nn.Conv2d(self.n_in, self.n_out, self.kernel, self.stride, self.kernel // 2)
        model = nn.Sequential(
            nn.Conv2d(3, self.n_in, 1), nn.ReLU(), tested, nn.ReLU(), nn.Conv2d(self.n_out, 8, 1)
        ).eval()
        variants = find_layout_variants(
            "one convolution",
            ExportedNetwork.export(model, torch.zeros(1, 3, self.height, self.height), {}, target),
            (),
        )
        return variants, next(
            at
            for at, subgraph in enumerate(variants.network.subgraphs)
            if subgraph.layers == ("2",)
        )


CONVOLUTIONS = (
    Convolution(3, 1, 24, 24, 32),
    Convolution(3, 1, 41, 41, 32),
    Convolution(3, 1, 48, 48, 16),
    Convolution(3, 1, 41, 41, 16),
    Convolution(3, 1, 64, 64, 8),
    Convolution(3, 1, 83, 83, 8),
    Convolution(3, 2, 24, 48, 32),
    Convolution(3, 2, 41, 83, 16),
    Convolution(1, 1, 24, 48, 32),
    Convolution(1, 1, 41, 83, 16),
    Convolution(1, 2, 24, 48, 32),
    Convolution(1, 2, 41, 83, 16),
)


def form_latencies(
    device: RpcDevice, shapes: Sequence[Convolution] = CONVOLUTIONS, effort: TuningBudget = _EQUAL
) -> list[dict[str, float | None]]:
    """The fastest program of each variant after the same number of trials, from scratch;

    and what a tail costs against filled channels.

    Args:
        device: where.
        shapes: convolutions, each with its bias and ReLU.
        effort: of each variant of each shape; small design spaces end earlier, `fewest_trials` says
            so.

    Returns:
        A row for each shape: microseconds in each variant, None where the variant is no other. Where the
        block does not divide the channels that are written,
        `padded_us` is the packed variant with channels filled up to whole blocks, and
        `tail_over_padded` the latency with a tail as a share of it.
    """
    rows: list[dict[str, float | None]] = []
    for shape in shapes:
        tuned, padded = _tuned(device, shape, effort), shape.padded(vector_width(device.target))
        if padded.n_out != shape.n_out:
            tuned["padded"] = _tuned(device, padded, effort, ("packed",))["packed"]
        seconds = {name: cost for name, (cost, _) in tuned.items()}
        row: dict[str, float | None] = {
            **vars(shape),
            **{
                f"{name}_us": seconds[name] * 1e6 if name in seconds else None
                for name in (*_VARIANTS, "padded")
            },
        }
        row["tail_over_padded"] = (
            seconds["packed"] / seconds["padded"] if "padded" in seconds else None
        )
        row["fewest_trials"] = min(n_trials for _, n_trials in tuned.values())
        rows.append(row)
    return rows


def _tuned(
    device: RpcDevice, shape: Convolution, effort: TuningBudget, wanted: Sequence[str] = _VARIANTS
) -> dict[str, tuple[float, int]]:
    """Seconds and trials of a convolution in the variants in which it is another task, by a tuner that
    knows nothing else.
    """
    variants, at = shape.variants(device.target)
    tuned = {}
    for name, position in (
        (_VARIANTS[f], f) for f in variants.distinct[at] if _VARIANTS[f] in wanted
    ):
        tuner, job = (
            TaskTuner(device, open_store(None), seed=0, since=math.inf),
            _job(device, variants.all[position], variants.network.dense, at),
        )
        tuned[name] = tuner.tune(job, "form", effort).latency_s, tuner.n_trials(job.workload)
    return tuned


def estimate_errors(
    bench: Bench, n_plans: int = 20, rounds: int = 10, seed: int = 0
) -> dict[str, float]:
    """The estimate, a sum of tasks, against the whole compiled network, over plans that greedy
    CPrune and random walks visit.
    """
    rng = np.random.default_rng(seed)
    network = bench.variants.network
    visited = [s.plan for s in CPrune().search(bench.problem(), Budget()).history][: n_plans // 2]
    while len(visited) < n_plans:
        visited.append(
            Plan(tuple(int(rng.integers(g.minimum, g.channels + 1)) for g in network.groups))
        )
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        for position, plan in enumerate(dict.fromkeys(visited)):
            model = prune(bench.model, bench.groups, plan)
            library = Path(folder) / f"{position}.so"
            estimate = sum(c.latency_s for c in bench.tuner.measure(plan))
            build_network(bench.tuner, plan, model, path=library)
            measured = float(
                np.median(
                    time_interleaved(
                        bench.device, {"net": library}, tuple(bench.example.shape), rounds
                    )["net"]
                )
            )
            errors.append(abs(estimate / measured - 1))
    return {
        "plans": len(errors),
        "median": float(np.median(errors)),
        "p90": float(np.quantile(errors, 0.9)),
        "worst": max(errors),
    }
