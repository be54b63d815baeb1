"""What a source of latencies promises a run: `TvmBackend` and `RecordedBackend` keep it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.intervals import Interval
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import LatencySource, TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.pipeline.progress import ProgressLog

__all__ = ["Comparison", "FinishedNetwork", "LatencyBackend"]


@dataclass(frozen=True)
class FinishedNetwork:
    """A network to compare: what it keeps, and its trained weights."""

    plan: Plan
    model: nn.Module


@dataclass(frozen=True)
class Comparison:
    """How fast finished networks are, side by side.

    Attributes:
        estimate_ms: of each network the sum of its tasks.
        speedup: of each but "dense", dense over its latency: measured where `latency_ms` is, else
            of the estimates.
        latency_ms: of each network as a whole, measured; empty where there was no device.
        noise_floor: see `intervals.noise_floor`; None where nothing was timed.
        libraries: of each network, compiled; empty where there was no compiler.
    """

    estimate_ms: Mapping[str, float]
    speedup: Mapping[str, Interval]
    latency_ms: Mapping[str, Interval] = field(default_factory=dict)
    noise_floor: float | None = None
    libraries: Mapping[str, Path] = field(default_factory=dict)


class LatencyBackend(Protocol):
    """Where latencies come from. Opened with its dense network's tasks known; not thread-safe."""

    @property
    def device_name(self) -> str:
        """In full: it opens the same device again."""

    @property
    def network(self) -> Network:
        """The description that tables, plans and searches speak of."""

    @property
    def descriptor(self) -> DeviceDescriptor:
        """What an agent knows of the device."""

    @property
    def interpolator(self) -> LatencyInterpolator:
        """What an agent may train on."""

    @property
    def spent(self) -> Mapping[str, float]:
        """Trials and seconds that went into `interpolator`."""

    @property
    def spent_on_schemes(self) -> Mapping[str, float]:
        """The same of what was measured of layers that are pruned by schemes."""

    @property
    def latency_source(self) -> str:
        """`result.MEASURED`, or whose recording the latencies are out of."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What was timed where, when and with which versions: for a recording of this run."""

    def source(self) -> LatencySource:
        """Latencies for one search, with counters of its own.

        Raises:
            DeviceError: the device is gone.
        """

    def timed_tasks(self, plans: Collection[Plan]) -> list[tuple[Workload, TaskCost]]:
        """Every task that was timed, those of some plans included:

        what a recording of this run holds.
        """

    def compare(
        self, networks: Mapping[str, FinishedNetwork], folder: Path, progress: ProgressLog
    ) -> Comparison:
        """Compares finished networks on equal terms; the first is "dense".

        Args:
            networks: by name.
            folder: of the run; what is built for it is kept there.
            progress: told what is going on.

        Raises:
            DeviceError: the device is gone.
        """
