"""A backend that is a recording: latencies are read out of it, and nothing is built or timed.

What cannot be had without a device is not made up: there is no library and no latency of a whole
network, and
every figure is an estimate that names the recording. Opened by `job.assemble` for `--device
recorded:...`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cprune_rl.compiler.devices.spec import RecordedSpec
from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.intervals import Interval
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import LatencySource, TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.envs.problems.registry import (
    Recording,
    describe_recorded,
    read_recording,
    recorded_names,
)
from cprune_rl.errors import ConfigError, ModelError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.recorded import RecordedLatency
from cprune_rl.pipeline.backends.base import Comparison, FinishedNetwork
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pruning.groups import CoupledGroups

__all__ = ["RecordedBackend", "check_recorded_model"]

_N_DRAWS = 200  # of the recording's noise, for the interval of a speed-up


def check_recorded_model(spec: RecordedSpec, network_name: str) -> None:
    """Refuses a recording of another network before anything is trained.

    Args:
        spec: what the device's name says.
        network_name: what the run prunes.

    Raises:
        UnknownNameError: there is no such recording.
        DataError: the file is none.
        ConfigError: it is of another network.
    """
    recorded = read_recording(spec.recording).network.name
    if recorded != network_name:
        of_model = [name for name in recorded_names() if name.partition("@")[0] == network_name]
        others = f", or a recording of {network_name}: {', '.join(of_model)}" if of_model else ""
        raise ConfigError(
            f"recording {spec.recording!r} is of {recorded}, this run prunes {network_name}: give --model {recorded}{others}. `cprune-rl device list` shows them."
        )


@dataclass
class RecordedBackend:
    """See the module, and `base.LatencyBackend`.

    Attributes:
        device_name: as the user gave it.
        recording: what is in the file.
        noise_seed: see `RecordedLatency`.
        latency_source: whose recording it is, for results.
        interpolator: every recorded task.
        spent: nothing.
        spent_on_schemes: nothing.
    """

    device_name: str
    recording: Recording
    noise_seed: int | None
    latency_source: str
    interpolator: LatencyInterpolator
    spent: dict[str, float] = field(default_factory=dict)
    spent_on_schemes: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def open(
        device_name: str,
        spec: RecordedSpec,
        progress: ProgressLog,
        model: nn.Module,
        coupled: CoupledGroups,
    ) -> RecordedBackend:
        """Reads a recording and sees that it is of this network.

        Args:
            device_name: as the user gave it.
            spec: what it says.
            progress: told whose recording it is.
            model: the dense network.
            coupled: its groups.

        Raises:
            ModelError: the recording is of other groups or layers.
        """
        recording = read_recording(spec.recording)
        _check_groups(recording, coupled, spec.recording)
        _check_layers(recording.network, model, spec.recording)
        interpolator = LatencyInterpolator(recording.costs)
        said = f"{describe_recorded(spec.recording).source}; interpolated tasks within {interpolator.leave_one_out_error:.1%} (leave-one-out)"
        source = (
            said
            if spec.noise_seed is None
            else f"{said}; with noise of that size, seed {spec.noise_seed}"
        )
        progress.print(f"    No device: latencies are estimates. {source}")
        return RecordedBackend(device_name, recording, spec.noise_seed, source, interpolator)

    @property
    def network(self) -> Network:
        """As it was lowered when it was recorded."""
        return self.recording.network

    @property
    def descriptor(self) -> DeviceDescriptor:
        """Of the device that was recorded."""
        return self.recording.descriptor

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Of the recording: its latencies stay those of its machine."""
        return self.recording.provenance

    def source(self) -> LatencySource:
        """The recording with counters of its own."""
        return RecordedLatency(self.network, self.interpolator, self.noise_seed)

    def timed_tasks(self, plans: Collection[Plan]) -> list[tuple[Workload, TaskCost]]:
        """The recorded tasks: what is interpolated between them is known no better after a run."""
        return self.interpolator.measured_tasks()

    def compare(
        self, networks: Mapping[str, FinishedNetwork], folder: Path, progress: ProgressLog
    ) -> Comparison:
        """Adds up the tasks of each network;

        the intervals are what the recording's own uncertainty makes of a speed-up.
        """
        seconds = {name: self._seconds(n.plan, self.noise_seed) for name, n in networks.items()}
        still = {name: self._seconds(n.plan, None) for name, n in networks.items()}
        drawn = [
            {name: self._seconds(n.plan, seed) for name, n in networks.items()}
            for seed in range(_N_DRAWS)
        ]
        speedups = {}
        for name in (n for n in networks if n != "dense"):
            ratio, expected = seconds["dense"] / seconds[name], still["dense"] / still[name]
            low, high = np.percentile(
                [ratio * d["dense"] / d[name] / expected for d in drawn], (2.5, 97.5)
            )
            speedups[name] = Interval(ratio, min(float(low), ratio), max(float(high), ratio))
        return Comparison({name: value * 1e3 for name, value in seconds.items()}, speedups)

    def _seconds(self, plan: Plan, noise_seed: int | None) -> float:
        return math.fsum(
            c.latency_s
            for c in RecordedLatency(self.network, self.interpolator, noise_seed).measure(plan)
        )


def _check_groups(recording: Recording, coupled: CoupledGroups, name: str) -> None:
    found, recorded = (
        {g.name: g for g in coupled.groups},
        {g.name: g for g in recording.network.groups},
    )
    if coupled.groups == recording.network.groups:
        return
    different = next((n for n in [*recorded, *found] if found.get(n) != recorded.get(n)), None)
    what = (
        "they come in another order"
        if different is None
        else f"group {different!r} is {recorded.get(different)} there and {found.get(different)} here"
    )
    raise ModelError(
        f"the groups of recording {name!r} are not those found in this network: {what}. Record it again with `cprune-rl record`."
    )


def _check_layers(network: Network, model: nn.Module, name: str) -> None:
    """A layer of other size would be another task:

    that of a data set with more classes, for one.
    """
    modules, dense = dict(model.named_modules()), network.widths(network.dense)
    for subgraph in network.subgraphs:
        recorded = subgraph.channels_out.at(dense)
        for layer in subgraph.layers:
            weight = getattr(modules.get(layer), "weight", None)
            found = "no" if weight is None else len(weight)
            if found != recorded:
                raise ModelError(
                    f"layer {layer!r} has {recorded} channels in recording {name!r} and {found} here. Record it again with `cprune-rl record`."
                )
