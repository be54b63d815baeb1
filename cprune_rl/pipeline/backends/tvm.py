"""Tunes and times tasks on a device, and builds and times finished networks as a whole.

Beside `compiled_check` and `time_builds`, the only file of the pipeline that loads tvm.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cprune_rl.compiler.deploy.time_networks import Rounds, compare_libraries
from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.layouts.variants import LayoutVariants, find_layout_variants
from cprune_rl.compiler.tuning.budget import TuningSettings
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.compiler.tuning.probe import N_WORKLOADS, probe_device
from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.machine_failures import machine_failure
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import LatencySource, TaskCost
from cprune_rl.core.result import MEASURED
from cprune_rl.core.system_info import command_line, describe_system, now_utc
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache import CostStore
from cprune_rl.envs.actions.scheme_actions import scheme_plans
from cprune_rl.errors import ConfigError, DataError, ModelError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.predicted import PredictedLatency
from cprune_rl.latency.predictor import LatencyPredictor
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.latency.task_features import samples_from_store
from cprune_rl.pipeline.backends.base import Comparison, FinishedNetwork
from cprune_rl.pipeline.compiled_check import BuiltNetworks, CompiledCheck
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_model import TrainedModel

__all__ = ["TvmBackend", "TvmSettings", "learn_latencies", "lower_network"]

OpenTuner = Callable[[LayoutVariants], NetworkTuner]


@dataclass(frozen=True, kw_only=True)
class TvmSettings:
    """How a network is tuned and timed.

    Attributes:
        tuning: how hard tasks are tuned.
        sweep: kept ratios of the uniform plans that are measured beforehand.
        scheme_sweep: densities at which every kind of scheme is measured beforehand, the first one
            tuned as hard as the dense network; empty where no layer is pruned by schemes.
        widest_interval: a predicted task is believed where its 90 % interval is at most this far to
            each side, as a share; 0 to measure every task, infinity to measure none.
        timing_rounds: of the final comparison.
        seed: of the order of that timing, and of the predictor.
        is_plain: whether networks are compiled in the plain layout alone.
    """

    tuning: TuningSettings
    sweep: tuple[float, ...]
    scheme_sweep: tuple[float, ...]
    widest_interval: float
    timing_rounds: int
    seed: int
    is_plain: bool = False


@dataclass(frozen=True, kw_only=True)
class TvmBackend:
    """A `LatencyBackend` with a compiler and a device.

    Attributes:
        variants: the network in every layout that it can be compiled in.
        input_shape: of one image as a batch.
        device: where tasks and networks are timed.
        tuner: measures plans.
        interpolator: knows the dense network, and the plans of the sweeps.
        predictor: of tasks that were not measured; None where all are.
        check: compares what is compiled with torch.
        open_tuner: opens a tuner of the same trials for some variants.
    """

    settings: TvmSettings
    variants: LayoutVariants
    input_shape: tuple[int, ...]
    device: RpcDevice
    descriptor: DeviceDescriptor
    tuner: NetworkTuner
    interpolator: LatencyInterpolator
    spent: Mapping[str, float]
    spent_on_schemes: Mapping[str, float]
    predictor: LatencyPredictor | None
    check: CompiledCheck
    open_tuner: OpenTuner
    latency_source: str = MEASURED

    @staticmethod
    def open(
        settings: TvmSettings,
        trained_model: TrainedModel,
        device: RpcDevice,
        store: CostStore,
        since: float,
        progress: ProgressLog,
    ) -> TvmBackend:
        """Lower the network, probe the device, tune dense tasks and measure a few narrower ones.

        Args:
            store: keeps every trial.
            since: see `NetworkTuner`.

        Raises:
            CPruneError: the network cannot be lowered, a task has no schedule that runs, the
                compiled network does not compute what torch computes, or the device is gone.
        """

        def open_tuner(variants: LayoutVariants) -> NetworkTuner:
            return NetworkTuner(variants, device, store, settings.tuning, since)

        variants = lower_network(trained_model, device, progress)
        if settings.is_plain:
            variants = variants.only([0])
        with progress.track("Probing the device", N_WORKLOADS) as advance:
            descriptor = probe_device(device, store, advance)
        check = CompiledCheck(images=trained_model.trainer.comparison_images(), progress=progress)
        tuning = _tune(settings, trained_model, open_tuner, variants, check)
        spent_on_schemes = {}
        if settings.scheme_sweep:
            spent_on_schemes = tuning.spent_in(lambda: tuning.tune_schemes(settings.scheme_sweep))
        return TvmBackend(
            settings=settings,
            variants=tuning.tuner.variants,
            input_shape=tuple(trained_model.example.shape),
            device=device,
            descriptor=descriptor,
            tuner=tuning.tuner,
            interpolator=tuning.interpolator,
            spent=tuning.spent_on_narrower,
            spent_on_schemes=spent_on_schemes,
            predictor=learn_latencies(settings, store, device.context, descriptor, progress),
            check=check,
            open_tuner=open_tuner,
        )

    @property
    def device_name(self) -> str:
        """Full name, which opens the same device again."""
        return self.device.name

    @property
    def network(self) -> Network:
        """Network in its plain layout."""
        return self.variants.network

    @property
    def provenance(self) -> dict[str, Any]:
        """The device, this machine and this moment."""
        return {
            "device": self.device.fingerprint,
            "is_remote": self.device.is_remote,
            "recorded": now_utc(),
            "command": command_line(),
            **describe_system(),
        }

    def source(self) -> LatencySource:
        """Open a source that measures, and interpolates between what it has measured.

        Where the run asked for it, the source predicts instead of measuring.
        """
        known = LatencyInterpolator(self.interpolator.measured_tasks())
        source = InterpolatedLatency(self.network, known, self.tuner.view())
        if self.predictor is None:
            return source
        widest = self.settings.widest_interval
        return PredictedLatency(
            self.network,
            source,
            predictor=self.predictor,
            device=self.descriptor,
            max_half_width=widest,
        )

    def timed_tasks(self, plans: Collection[Plan]) -> list[tuple[Workload, TaskCost]]:
        """List what the interpolator knows, and the tasks of the plans."""
        known = LatencyInterpolator(self.interpolator.measured_tasks())
        # As the searches saw them: the final comparison has tuned some tasks further since.
        seen = self.tuner.view()
        for plan in sorted(plans, key=lambda p: (p.widths, p.schemes)):
            _learn(known, self.network, seen, plan)
        return known.measured_tasks()

    def compare(
        self, networks: Mapping[str, FinishedNetwork], folder: Path, progress: ProgressLog
    ) -> Comparison:
        """Tune all networks from one pool, build them, compare them with torch, and time them.

        Where one computes something else, all are compiled in the plain layout.
        """
        plans = [network.plan for network in networks.values()]
        n_tasks = self.tuner.n_cross_apply_tasks(plans)
        with progress.track("Offering every schedule to every plan", n_tasks) as advance:
            self.tuner.cross_apply(plans, advance)
        built = self.check.build(self.tuner, networks, folder / "built")
        if built.wrong is not None:
            return self._in_plain_layout(networks, built).compare(networks, folder, progress)
        n_rounds = self.settings.timing_rounds
        with progress.track("Timing them in turns", n_rounds) as advance:
            rounds = Rounds(n_rounds, self.settings.seed, advance)
            timed = compare_libraries(self.device, built.libraries, self.input_shape, rounds=rounds)
        return Comparison(
            estimate_ms={name: self._estimate_ms(n.plan) for name, n in networks.items()},
            speedup=timed.speedup,
            latency_ms=timed.latency_ms,
            noise_floor=timed.noise_floor,
            libraries=built.libraries,
            agreement=built.agreement,
            note=self.variants.left_out,
        )

    def _in_plain_layout(
        self, networks: Mapping[str, FinishedNetwork], built: BuiltNetworks
    ) -> TvmBackend:
        variants = self.check.plain_variants(self.tuner, networks, built)
        self.check.progress.print(f"    {variants.left_out}")
        tuner = self.open_tuner(variants)
        tuner.tune_dense()
        return dataclasses.replace(self, variants=variants, tuner=tuner)

    def _estimate_ms(self, plan: Plan) -> float:
        return sum(cost.latency_s for cost in self.tuner.measure(plan)) * 1e3


def lower_network(
    trained_model: TrainedModel, device: RpcDevice, progress: ProgressLog
) -> LayoutVariants:
    """Lower a network to its tasks, in every layout that it can be compiled in."""
    coupled = trained_model.coupled
    with progress.track("Finding tasks", None):
        exported = ExportedNetwork.export(
            trained_model.model,
            trained_model.example,
            coupled.axes,
            device.target,
            coupled.written,
        )
        variants = find_layout_variants(
            trained_model.name, exported, coupled.groups, coupled.unprunable
        )
    if variants.note:
        progress.print(f"    {variants.note}")
    return variants


def _tune(
    settings: TvmSettings,
    trained_model: TrainedModel,
    open_tuner: OpenTuner,
    variants: LayoutVariants,
    check: CompiledCheck,
) -> _Tuning:
    """Tune the dense network and measure narrower ones, in layouts that compute what torch does.

    The dense network and the narrowest are built and compared before anything is searched.
    """
    network = variants.network
    plans = {"dense": network.dense}
    if settings.sweep:
        plans["narrower"] = network.uniform(min(settings.sweep))
    networks = {
        name: FinishedNetwork(plan, trained_model.pruned(plan)) for name, plan in plans.items()
    }
    while True:
        tuning = _Tuning(open_tuner(variants), check.progress)
        tuning.tune_dense()
        tuning.measure_narrower(settings.sweep)
        right = check.right_variants(tuning.tuner, networks)
        if right is variants:
            return tuning
        check.progress.print(f"    {right.left_out}")
        variants = right


class _Tuning:
    """What is measured before a search begins.

    Attributes:
        tuner: measures.
        interpolator: learns every task that is measured.
        spent_on_narrower: trials and seconds that narrower networks took.
    """

    def __init__(self, tuner: NetworkTuner, progress: ProgressLog) -> None:
        self.tuner = tuner
        self._network = tuner.variants.network
        self._progress = progress
        self.interpolator = LatencyInterpolator()
        self.spent_on_narrower: Mapping[str, float] = {}

    def spent_in(self, work: Callable[[], None]) -> dict[str, float]:
        """Do some work, and give the trials and seconds that it took."""
        before = dataclasses.asdict(self.tuner.spending)
        work()
        after = dataclasses.asdict(self.tuner.spending)
        return {name: value - before[name] for name, value in after.items()}

    def tune_dense(self) -> None:
        """Tune the dense network's tasks.

        Raises:
            ModelError: a task has no schedule that runs.
        """
        n_tasks = self.tuner.n_dense_tasks()
        with self._progress.track("Tuning the dense network's tasks", n_tasks) as advance:
            self.tuner.tune_dense(advance)
        dense = self._network.dense
        costs = self.tuner.measure(dense)
        for workload, cost in zip(self._network.workloads(dense), costs, strict=True):
            if cost.error is not None:
                advice = ""
                if machine_failure(cost.error) is not None:
                    advice = (
                        ". That is the machine's failure. Where an earlier version kept it as the "
                        "program's, `cprune-rl cache verify` removes it"
                    )
                raise ModelError(
                    f"no program of task {workload.key[:80]} runs on {self.tuner.device.name}: "
                    f"{cost.error}{advice}"
                )

    def measure_narrower(self, ratios: Iterable[float]) -> None:
        """Learn the dense network, and uniform plans of some kept ratios."""
        self.spent_on_narrower = self.spent_in(lambda: self._measure_narrower(ratios))

    def _measure_narrower(self, ratios: Iterable[float]) -> None:
        narrower = [self._network.uniform(ratio) for ratio in ratios]
        plans = [self._network.dense, *narrower]
        if narrower:
            n_tasks = self.tuner.n_cross_apply_tasks(plans)
            with self._progress.track("Measuring narrower tasks", n_tasks) as advance:
                self.tuner.extend_pool(narrower, advance)
        for plan in plans:
            _learn(self.interpolator, self._network, self.tuner, plan)

    def tune_schemes(self, densities: Sequence[float]) -> None:
        """Learn every kind of scheme on all layers at some densities.

        The first density is tuned as hard as the dense network, because the dense network's pool
        has no schedules for blocks.
        """
        plans = [scheme_plans(self._network, density) for density in densities]
        if not plans[0]:
            self._progress.print("    No layer of this network can be pruned by a scheme")
            return
        what = "Tuning layers in blocks, kernels and patterns"
        with self._progress.track(what, len(plans[0])) as advance:
            self.tuner.tune_block_sparse(plans[0], advance)
        every = list(itertools.chain.from_iterable(plans))
        with self._progress.track("Measuring sparser ones", len(every)) as advance:
            for done, plan in enumerate(every, start=1):
                _learn(self.interpolator, self._network, self.tuner, plan)
                advance(done)


def _learn(
    interpolator: LatencyInterpolator, network: Network, tuner: NetworkTuner, plan: Plan
) -> None:
    """Measure a plan's tasks, and teach them to the interpolator."""
    for workload, cost in zip(network.workloads(plan), tuner.measure(plan), strict=True):
        interpolator.learn(workload, cost)


def learn_latencies(
    settings: TvmSettings,
    store: CostStore,
    context: str,
    descriptor: DeviceDescriptor,
    progress: ProgressLog,
) -> LatencyPredictor | None:
    """Fit a predictor to all trials that the cost cache holds of a device.

    Args:
        context: whose trials, as the cost cache names them.

    Returns:
        None where every task is to be measured.

    Raises:
        ConfigError: nothing is to be measured, and there is too little to predict from.
    """
    if not settings.widest_interval:
        return None
    try:
        with progress.track("Learning to predict latencies", None):
            samples = samples_from_store(store, context, descriptor)
            return LatencyPredictor.fit(samples, seed=settings.seed)
    except DataError as error:
        if math.isinf(settings.widest_interval):
            raise ConfigError(
                f"--no-measure has nothing to predict from: {error}. Prune or record other "
                "networks on this device first, or leave it out."
            ) from error
        progress.print(f"    Every task is measured: {error}")
        return None
