"""Reads latencies out of a recording; nothing is built or timed.

There is no library and no latency of a whole network. Every figure is an estimate, and names the
recording. Opened for `--device recorded:...`.
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
from cprune_rl.core.network import Group, Network, Plan
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
from cprune_rl.models.registry import is_object
from cprune_rl.pipeline.backends.base import Comparison, FinishedNetwork
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_model import TrainedModel

__all__ = ["RecordedBackend", "check_recorded_model"]

_N_DRAWS = 200  # of the recording's noise, for the interval of a speed-up
_RECORD_AGAIN = "Record it again with `cprune-rl record`."


def check_recorded_model(spec: RecordedSpec, network_name: str) -> None:
    """Refuse a recording of another network, before anything is trained.

    Args:
        network_name: what the run prunes. Of a module, groups and layers are compared later.

    Raises:
        UnknownNameError: there is no such recording.
        DataError: the file is no recording.
        ConfigError: the recording is of another network.
    """
    recorded = read_recording(spec.recording).network.name
    if recorded == network_name or is_object(network_name):
        return
    of_model = [name for name in recorded_names() if name.partition("@")[0] == network_name]
    others = f", or a recording of {network_name}: {', '.join(of_model)}" if of_model else ""
    raise ConfigError(
        f"recording {spec.recording!r} is of {recorded}, this run prunes {network_name}: "
        f"give --model {recorded}{others}. `cprune-rl device list` shows them."
    )


@dataclass(frozen=True, kw_only=True)
class RecordedBackend:
    """A `LatencyBackend` that is a recording.

    Attributes:
        noise_seed: see `RecordedLatency`.
        interpolator: knows every recorded task.
    """

    device_name: str
    recording: Recording
    noise_seed: int | None
    latency_source: str
    interpolator: LatencyInterpolator
    spent: Mapping[str, float] = field(default_factory=dict)
    spent_on_schemes: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def open(
        device_name: str, spec: RecordedSpec, trained_model: TrainedModel, progress: ProgressLog
    ) -> RecordedBackend:
        """Read a recording and check that it is of this network.

        Raises:
            ModelError: the recording is of other groups or layers.
        """
        name = spec.recording
        recording = read_recording(name)
        _check_groups(recording, trained_model.coupled.groups, name)
        _check_layers(recording.network, trained_model.model, name)
        interpolator = LatencyInterpolator(recording.costs)
        source = (
            f"{describe_recorded(name).source}; "
            f"interpolated tasks within {interpolator.leave_one_out_error:.1%} (leave-one-out)"
        )
        if spec.noise_seed is not None:
            source += f"; with noise of that size, seed {spec.noise_seed}"
        progress.print(f"    No device: latencies are estimates. {source}")
        return RecordedBackend(
            device_name=device_name,
            recording=recording,
            noise_seed=spec.noise_seed,
            latency_source=source,
            interpolator=interpolator,
        )

    @property
    def network(self) -> Network:
        """Network as it was lowered for the recording."""
        return self.recording.network

    @property
    def descriptor(self) -> DeviceDescriptor:
        """Descriptor of the device that was recorded."""
        return self.recording.descriptor

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Provenance of the recording: its latencies stay those of its machine."""
        return self.recording.provenance

    def source(self) -> LatencySource:
        """Open the recording with counters of its own."""
        return RecordedLatency(self.network, self.interpolator, self.noise_seed)

    def timed_tasks(self, plans: Collection[Plan]) -> list[tuple[Workload, TaskCost]]:
        """List the recorded tasks: a run times no others."""
        return self.interpolator.measured_tasks()

    def compare(
        self, networks: Mapping[str, FinishedNetwork], folder: Path, progress: ProgressLog
    ) -> Comparison:
        """Add up the tasks of each network.

        The recording's own uncertainty gives the interval of a speed-up.
        """
        plans = {name: network.plan for name, network in networks.items()}
        seconds = self._latencies(plans, self.noise_seed)
        expected = self._latencies(plans, None)
        drawn = [self._latencies(plans, seed) for seed in range(_N_DRAWS)]

        intervals = {}
        for name in [name for name in plans if name != "dense"]:
            ratio = seconds["dense"] / seconds[name]
            expected_ratio = expected["dense"] / expected[name]
            ratios = [ratio * s["dense"] / s[name] / expected_ratio for s in drawn]
            low, high = np.percentile(ratios, (2.5, 97.5))
            intervals[name] = Interval(ratio, min(float(low), ratio), max(float(high), ratio))
        return Comparison(
            estimate_ms={name: value * 1e3 for name, value in seconds.items()}, speedup=intervals
        )

    def _latencies(self, plans: Mapping[str, Plan], noise_seed: int | None) -> dict[str, float]:
        """Seconds of each plan."""
        latency = RecordedLatency(self.network, self.interpolator, noise_seed)
        return {
            name: math.fsum(cost.latency_s for cost in latency.measure(plan))
            for name, plan in plans.items()
        }


def _check_groups(recording: Recording, groups: tuple[Group, ...], name: str) -> None:
    if groups == recording.network.groups:
        return
    here = {group.name: group for group in groups}
    there = {group.name: group for group in recording.network.groups}
    different = next((g for g in [*there, *here] if here.get(g) != there.get(g)), None)
    what = "they come in another order"
    if different is not None:
        what = f"group {different!r} is {there.get(different)} there and {here.get(different)} here"
    raise ModelError(
        f"the groups of recording {name!r} are not those found in this network: {what}. "
        f"{_RECORD_AGAIN}"
    )


def _check_layers(network: Network, model: nn.Module, name: str) -> None:
    """Refuse a layer of another size, such as that of a data set with more classes."""
    modules = dict(model.named_modules())
    dense = network.widths(network.dense)
    for subgraph in network.subgraphs:
        recorded = subgraph.channels_out.at(dense)
        for layer in subgraph.layers:
            weight = getattr(modules.get(layer), "weight", None)
            channels = "no" if weight is None else len(weight)
            if channels != recorded:
                raise ModelError(
                    f"layer {layer!r} has {recorded} channels in recording {name!r} "
                    f"and {channels} here. {_RECORD_AGAIN}"
                )
