"""A backend with a compiler and a device:

tasks are tuned and timed, finished networks built and timed as a whole.

Opened by `job.assemble` where the device is one; with `job.side_by_side` the only file of the job
that loads tvm.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cprune_rl.compiler.deploy.build import Rounds, build_network, compare_libraries
from cprune_rl.compiler.devices.rpc_device import RpcDevice
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.layouts.variants import LayoutVariants, find_layout_variants
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.compiler.tuning.probe import N_WORKLOADS, probe_device
from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import LatencySource, TaskCost
from cprune_rl.core.result import MEASURED
from cprune_rl.core.system_info import command_line, describe_system, now_utc
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache import CostStore
from cprune_rl.envs.actions.layer_schemes import scheme_plans
from cprune_rl.errors import ConfigError, DataError, ModelError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.predicted import PredictedLatency
from cprune_rl.latency.predictor import LatencyPredictor
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.latency.task_features import stored_samples
from cprune_rl.pipeline.backends.base import Comparison, FinishedNetwork
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pruning.groups import CoupledGroups

__all__ = ["TvmBackend"]


@dataclass
class TvmBackend:
    """See the module, and `base.LatencyBackend`.

    Attributes:
        config: of the run.
        input_shape: of one image as a batch.
        variants: the network in every variant that it can be compiled in.
        device: where it is timed.
        tuner: true latencies.
        descriptor: of the device.
        interpolator: what the dense network and a uniform plan or two taught.
        spent: trials and seconds that went into it.
        spent_on_schemes: the same of what it was taught of layers that are pruned by schemes.
        predictor: of tasks that were not measured; None where all are to be.
    """

    config: RunConfig
    input_shape: tuple[int, ...]
    variants: LayoutVariants
    device: RpcDevice
    tuner: NetworkTuner
    descriptor: DeviceDescriptor
    interpolator: LatencyInterpolator = field(default_factory=LatencyInterpolator)
    spent: dict[str, float] = field(default_factory=dict)
    spent_on_schemes: dict[str, float] = field(default_factory=dict)
    predictor: LatencyPredictor | None = None
    latency_source: str = MEASURED

    @staticmethod
    def open(
        config: RunConfig,
        progress: ProgressLog,
        device: RpcDevice,
        store: CostStore,
        since: float,
        model: nn.Module,
        example: torch.Tensor,
        coupled: CoupledGroups,
    ) -> TvmBackend:
        """Lowers the network, probes the device, tunes the dense network's tasks and measures a few
        narrower ones.

        Args:
            config: of the run.
            progress: told what is going on.
            device: where to time.
            store: the cost cache.
            since: when the run began, in seconds since the epoch.
            model: the dense network.
            example: one batch of its input.
            coupled: its groups.

        Raises:
            CPruneError: the network cannot be lowered, a task has no program, or the device is
                gone.
        """
        with progress.track("Finding tasks", None):
            exported = ExportedNetwork.export(model, example, coupled.axes, device.target)
            variants = find_layout_variants(
                config.network_name, exported, coupled.groups, coupled.unprunable
            )
        if variants.note:
            progress.print(f"    {variants.note}")
        tuning = dataclasses.replace(config.budgets.tuning, seed=config.seed)
        tuner = NetworkTuner(variants, device, store, tuning, since)
        with progress.track("Probing the device", N_WORKLOADS) as advance:
            descriptor = probe_device(device, store, advance)
        backend = TvmBackend(config, tuple(example.shape), variants, device, tuner, descriptor)
        backend._tune(progress)
        backend._sweep(progress)
        if config.has_schemes:
            backend._sweep_schemes(progress)
        backend.predictor = learn_latencies(config, store, device.context, descriptor, progress)
        return backend

    @property
    def device_name(self) -> str:
        """In full: it opens the same device again."""
        return self.device.name

    @property
    def network(self) -> Network:
        """Its plain variant."""
        return self.variants.network

    @property
    def provenance(self) -> dict[str, Any]:
        """This machine, now, and the device."""
        return {
            "device": self.device.fingerprint,
            "is_remote": self.device.is_remote,
            "recorded": now_utc(),
            "command": command_line(),
            **describe_system(),
        }

    def source(self) -> LatencySource:
        """Measures, and estimates from what it has measured;

        predicts in place of measuring where the run asked for it.
        """
        source = InterpolatedLatency(
            self.network, LatencyInterpolator(self.interpolator.measured_tasks()), self.tuner.view()
        )
        if self.predictor is None:
            return source
        widest = math.inf if self.config.no_measure else self.config.predict
        return PredictedLatency(self.network, source, self.predictor, self.descriptor, widest)

    def timed_tasks(self, plans: Collection[Plan]) -> list[tuple[Workload, TaskCost]]:
        """What the cost model was taught, and the tasks of the plans."""
        recorded = LatencyInterpolator(self.interpolator.measured_tasks())
        source = (
            self.tuner.view()
        )  # what the searches saw: the final exchange has tuned some tasks further since
        for plan in sorted(plans, key=lambda p: (p.widths, p.schemes)):
            for workload, cost in zip(
                self.network.workloads(plan), source.measure(plan), strict=True
            ):
                recorded.learn(workload, cost)
        return recorded.measured_tasks()

    def compare(
        self, networks: Mapping[str, FinishedNetwork], folder: Path, progress: ProgressLog
    ) -> Comparison:
        """Tunes all networks from one pool, builds them, times them in turns."""
        plans = [n.plan for n in networks.values()]
        with progress.track(
            "Offering every program to every plan", self.tuner.n_cross_apply_tasks(plans)
        ) as advance:
            self.tuner.cross_apply(plans, advance)
        libraries = self._build(networks, folder / "built", progress)
        n_rounds = self.config.budgets.timing_rounds
        with progress.track("Timing them in turns", n_rounds) as advance:
            rounds = Rounds(n_rounds, self.config.seed, advance)
            timed = compare_libraries(self.device, libraries, self.input_shape, rounds=rounds)
        return Comparison(
            {
                name: sum(c.latency_s for c in self.tuner.measure(n.plan)) * 1e3
                for name, n in networks.items()
            },
            timed.speedup,
            timed.latency_ms,
            timed.noise_floor,
            libraries,
        )

    def _build(
        self, networks: Mapping[str, FinishedNetwork], built: Path, progress: ProgressLog
    ) -> dict[str, Path]:
        built.mkdir(exist_ok=True)
        libraries = {name: built / f"{name}.so" for name in networks}
        with progress.track("Building the networks", len(networks)) as advance:
            for done, (name, network) in enumerate(networks.items(), start=1):
                build_network(
                    self.variants,
                    network.plan,
                    network.model,
                    self.tuner,
                    self.device,
                    libraries[name],
                )
                advance(done)
        return libraries

    def _tune(self, progress: ProgressLog) -> None:
        dense = self.network.dense
        with progress.track(
            "Tuning the dense network's tasks", self.tuner.n_dense_tasks()
        ) as advance:
            self.tuner.tune_dense(advance)
        failed = [
            (w, c)
            for w, c in zip(self.network.workloads(dense), self.tuner.measure(dense), strict=True)
            if c.error is not None
        ]
        if failed:
            raise ModelError(
                f"no program of task {failed[0][0].key[:80]} runs on {self.device.name}: {failed[0][1].error}"
            )

    def _sweep(self, progress: ProgressLog) -> None:
        """Measures the dense network and the uniform plans that the cost model starts from."""
        before = dataclasses.asdict(self.tuner.spending)
        plans = [
            self.network.dense,
            *(
                self.network.uniform(r)
                for r in self.config.budgets.sweep
                if not self.config.no_measure
            ),
        ]
        if len(plans) > 1:
            with progress.track(
                "Measuring narrower tasks", self.tuner.n_cross_apply_tasks(plans)
            ) as advance:
                self.tuner.extend_pool(plans[1:], advance)
        self._learn(plans)
        self.spent = self._since(before)

    def _sweep_schemes(self, progress: ProgressLog) -> None:
        """Measures every kind of scheme on all layers at a few densities, the first tuned hard:

        blocks have no programs in the dense network's pool.
        """
        before, (first, *others) = (
            dataclasses.asdict(self.tuner.spending),
            self.config.budgets.scheme_sweep,
        )
        plans = {density: scheme_plans(self.network, density) for density in (first, *others)}
        if not plans[first]:
            progress.print("    No layer of this network can be pruned by a scheme")
            return
        with progress.track(
            "Tuning layers in blocks, kernels and patterns", len(plans[first])
        ) as advance:
            self.tuner.tune_block_sparse(plans[first], advance)
        with progress.track("Measuring sparser ones", sum(map(len, plans.values()))) as advance:
            for done, plan in enumerate(itertools.chain.from_iterable(plans.values()), start=1):
                self._learn([plan])
                advance(done)
        self.spent_on_schemes = self._since(before)

    def _learn(self, plans: Sequence[Plan]) -> None:
        for plan in plans:
            for workload, cost in zip(
                self.network.workloads(plan), self.tuner.measure(plan), strict=True
            ):
                self.interpolator.learn(workload, cost)

    def _since(self, before: Mapping[str, float]) -> dict[str, float]:
        return {
            name: value - before[name]
            for name, value in dataclasses.asdict(self.tuner.spending).items()
        }


def learn_latencies(
    config: RunConfig,
    store: CostStore,
    context: str,
    descriptor: DeviceDescriptor,
    progress: ProgressLog,
) -> LatencyPredictor | None:
    """Learns to predict from all that the cost cache holds of a device.

    Args:
        config: whose `predict` says whether it is wanted.
        store: the cost cache.
        context: whose trials.
        descriptor: of the device.
        progress: told where there is too little to learn from.

    Returns:
        None where every task is to be measured.

    Raises:
        ConfigError: nothing is to be measured, and there is too little to predict from.
    """
    if not config.predict and not config.no_measure:
        return None
    try:
        with progress.track("Learning to predict latencies", None):
            return LatencyPredictor.fit(
                stored_samples(store, context, descriptor), seed=config.seed
            )
    except DataError as error:
        if config.no_measure:
            raise ConfigError(
                f"--no-measure has nothing to predict from: {error}. Prune or record other networks on this device first, or leave it out."
            ) from error
        progress.print(f"    Every task is measured: {error}")
        return None
