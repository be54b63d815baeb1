"""Puts a live problem together: base network, tasks, device, pool, oracle, loss curves.

The one place where the three worlds (compiler, pruning, accuracy) meet. Used by the run and, for
`gymnasium.make("cprune_rl/CPrune-v0")`, by `envs.problems`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from cprune_rl.accuracy.data import ImageData, load_data
from cprune_rl.accuracy.oracle import Calibration, FinetuneOracle, fit_loss_curves
from cprune_rl.accuracy.training import TrainSettings, evaluate
from cprune_rl.compiler.device import LocalDevice, open_device
from cprune_rl.compiler.lower import describe_network
from cprune_rl.compiler.tuner import Tuner, TunerSettings
from cprune_rl.compiler.workload import ExportedNetwork
from cprune_rl.contracts import LossCurves, Measurement, Spending
from cprune_rl.cost_cache import CostStore, StoredTrial, default_url, open_store
from cprune_rl.cost_cache.predictor import CostModel, EstimatedCosts
from cprune_rl.envs.problem import Problem, resolve_floor
from cprune_rl.errors import DeviceError, ModelError
from cprune_rl.job.config import RunConfig, load_config
from cprune_rl.job.networks import is_trained, trained, weights_hash
from cprune_rl.job.progress import Reporter
from cprune_rl.pruning.groups import CoupledGroups, find_groups
from cprune_rl.pruning.surgery import kept_indices, prune
from cprune_rl.pruning.zoo import MODELS, build_model
from cprune_rl.table import Network, Plan

__all__ = ["Workbench", "open_live", "open_workbench"]

_REFERENCE = "reference: 64x64 matrix product"
_CURVE_KEPT = (0.75, 0.5)  # kept ratios at which each group's loss is asked for


@dataclass
class Workbench:
    """Everything a run works with.

    Attributes:
        config: its options.
        data: images.
        model: the trained dense network.
        coupled: its groups, importance and ranking.
        exported: the network, exported once.
        network: its subgraphs.
        device: where it is timed.
        store: the cost cache.
        tuner: true latencies.
        cost_model: cheap latencies.
        oracle: the short fine-tune, not calibrated.
        calibration: short to full fine-tune.
        model_cost: trials, evaluations and seconds that went into the cost model and the curves: only an agent
            that trains on them needs them, so its search is charged with them.
        curves: predicted loss of each group.
        descriptor: of the device.
        dense_accuracy: on the search images.
    """

    config: RunConfig
    data: ImageData
    model: nn.Module
    coupled: CoupledGroups
    exported: ExportedNetwork
    network: Network
    device: LocalDevice
    store: CostStore
    tuner: Tuner
    oracle: FinetuneOracle
    dense_accuracy: float
    descriptor: tuple[float, ...]
    cost_model: CostModel = field(default_factory=CostModel)
    calibration: Calibration = field(default_factory=Calibration)
    model_cost: dict[str, float] = field(default_factory=dict)
    curves: LossCurves = field(default_factory=lambda: LossCurves(np.empty(0), np.empty(0)))

    @property
    def example(self) -> torch.Tensor:
        """One batch of the network's input."""
        return torch.zeros(MODELS[self.config.network_name].input_shape)

    @property
    def finetune_settings(self) -> TrainSettings:
        """Of the full fine-tune."""
        return TrainSettings(self.config.budgets.finetune_steps, learning_rate=0.05, warmup=0.1, seed=self.config.seed)

    def pruned(self, plan: Plan) -> nn.Module:
        """The network a plan leaves, with the dense network's weights."""
        return prune(self.model, self.example, kept_indices(self.coupled, plan))

    def problem(self) -> Problem:
        """The problem with counters of its own, for one search."""
        latency = EstimatedCosts(self.network, self.tuner.view(), CostModel(self.cost_model.measured()))
        floor = resolve_floor(self.config.floor, self.dense_accuracy)
        name = f"{self.network.name}/{self.data.name}@{self.device.name}"
        return Problem(name, self.network, latency, self.oracle.view(self.calibration), self.curves, self.dense_accuracy, floor, self.descriptor)


@contextlib.contextmanager
def open_workbench(config: RunConfig, reporter: Reporter, since: float) -> Iterator[Workbench]:
    """Trains the base network, lowers it, tunes the pool, calibrates the oracle.

    Args:
        config: options of the run.
        reporter: told what is going on.
        since: when the run began, in seconds since the epoch.

    Raises:
        CPruneError: an option, the network, the machine's tools, the device or the cost cache is at fault.
    """
    config.check_names()
    with contextlib.ExitStack() as stack:
        store = open_store(config.storage or default_url())
        stack.callback(store.close)
        device = stack.enter_context(open_device(config.device))
        bench = _lowered_workbench(config, reporter, device, store, since)
        _tune(bench, reporter)
        _calibrate(bench, reporter)
        yield bench


def open_live(reporter: Reporter | None = None, **options: object) -> Problem:
    """A live problem for `cprune_rl/CPrune-v0`; its device closes with the process.

    Args:
        reporter: told what is going on.
        options: of `RunConfig`: `model=`, `data=`, `device=`, `floor=`, `storage=`, `fast=`...
    """
    import atexit

    bench = open_workbench(load_config(None, options), reporter or Reporter(), time.time())
    problem = bench.__enter__().problem()
    atexit.register(bench.__exit__, None, None, None)
    return problem


def base_settings(config: RunConfig) -> TrainSettings:
    """Training of the base network."""
    return TrainSettings(config.budgets.base_steps, seed=config.seed)


def _lowered_workbench(config: RunConfig, reporter: Reporter, device: LocalDevice, store: CostStore, since: float) -> Workbench:
    with reporter.part(f"Drawing the {config.data} images", None):
        data = load_data(config.data, config.fast)
    name, budgets = config.network_name, config.budgets
    model = build_model(name, data.n_classes, config.seed)
    settings = base_settings(config)
    identity = f"base:{name}:{config.seed}"
    verb = "Reading" if is_trained(identity, data, settings) else "Training"
    with reporter.part(f"{verb} the base network", settings.n_steps) as advance:
        trained(model, identity, data, settings, lambda step, _: advance(step))
    dense_accuracy = evaluate(model, data.search)
    resolve_floor(config.floor, dense_accuracy)
    example = torch.zeros(MODELS[name].input_shape)
    with reporter.part("Finding groups and tasks", None):
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks this form
        coupled = find_groups(model, example)
        exported = ExportedNetwork.export(model, example, coupled.axes, device.target)
        network = describe_network(name, exported, coupled.groups, coupled.unprunable)
    tuner_settings = TunerSettings(budgets.dense_programs, budgets.pool_programs, budgets.random_programs, config.seed)
    tuner = Tuner(network, exported, device, store, tuner_settings, since)
    pruner = functools.partial(_pruned_copy, model, example, coupled)
    short = TrainSettings(budgets.oracle_steps, learning_rate=0.02, warmup=0.1, seed=config.seed)
    oracle = FinetuneOracle(pruner, weights_hash(model), data, store, short, dense_accuracy, since=since)
    descriptor = device.descriptor(_reference(device, store, tuner.context))
    return Workbench(config, data, model, coupled, exported, network, device, store, tuner, oracle, dense_accuracy, descriptor)


def _reference(device: LocalDevice, store: CostStore, context: str) -> Measurement:
    """The reference workload's time, kept with the costs: a policy must see the same device in every run.

    Raises:
        DeviceError: it does not run; nothing is kept of that.
    """
    if known := store.trials(context, _REFERENCE):
        return known[0].measurement
    measured = device.time_reference()
    if measured.error is not None:
        raise DeviceError(f"the reference workload does not run on {device.name}: {measured.error}")
    store.add_trials(context, [StoredTrial(_REFERENCE, "reference", "[]", measured)])
    return measured


def _pruned_copy(model: nn.Module, example: torch.Tensor, coupled: CoupledGroups, plan: Plan) -> nn.Module:
    return prune(model, example, kept_indices(coupled, plan))


def _tune(bench: Workbench, reporter: Reporter) -> None:
    """Tunes the dense tasks, and measures a few uniform plans for the cost model."""
    dense = bench.network.dense
    tasks = {w.key for w in bench.network.workloads(dense)}
    with reporter.part("Tuning the dense network's tasks", len(tasks)) as advance:
        bench.tuner.tune_dense(advance)
    failed = [(w, c) for w, c in zip(bench.network.workloads(dense), bench.tuner.measure(dense), strict=True) if c.error is not None]
    if failed:
        raise ModelError(f"no program of task {failed[0][0].key[:80]} runs on {bench.device.name}: {failed[0][1].error}")
    before = dataclasses.asdict(bench.tuner.spending)
    plans = [dense, *(bench.network.uniform(r) for r in bench.config.budgets.sweep)]
    with reporter.part("Measuring narrower tasks", len(plans)) as advance:
        for done, plan in enumerate(plans, start=1):
            for workload, cost in zip(bench.network.workloads(plan), bench.tuner.measure(plan), strict=True):
                bench.cost_model.learn(workload, cost)
            advance(done)
    _charge_model(bench, before, bench.tuner.spending)


def _calibrate(bench: Workbench, reporter: Reporter) -> None:
    """Fine-tunes a few plans in full to calibrate the oracle, and asks it for each group's loss."""
    ratios = bench.config.budgets.calibration
    plans = [bench.network.uniform(r) for r in ratios]
    losses = []
    with reporter.part("Calibrating the accuracy oracle", len(plans)) as advance:
        for done, plan in enumerate(plans, start=1):
            full = bench.oracle.finetuned(plan, bench.finetune_settings)
            losses.append((bench.dense_accuracy - bench.oracle.raw(plan), bench.dense_accuracy - full))
            advance(done)
    bench.calibration = Calibration.fit(losses)
    before = dataclasses.asdict(bench.oracle.spending)
    groups = bench.network.groups
    measured = np.zeros((len(groups), len(_CURVE_KEPT)))
    with reporter.part("Asking for each group's loss", measured.size) as advance:
        for g, group in enumerate(groups):
            for k, kept in enumerate(_CURVE_KEPT):
                widths = list(bench.network.dense.widths)
                widths[g] = max(group.minimum, round(group.channels * kept))
                measured[g, k] = bench.dense_accuracy - bench.oracle.raw(Plan(tuple(widths)))
                advance(g * len(_CURVE_KEPT) + k + 1)
    _charge_model(bench, before, bench.oracle.spending)
    middle = len(ratios) // 2
    bench.curves = fit_loss_curves(measured, _CURVE_KEPT, bench.calibration(losses[middle][0]), ratios[middle])


def _charge_model(bench: Workbench, before: dict[str, float], now: Spending) -> None:
    for name, value in dataclasses.asdict(now).items():
        bench.model_cost[name] = bench.model_cost.get(name, 0) + value - before[name]
