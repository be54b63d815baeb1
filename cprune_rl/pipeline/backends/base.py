"""States what a run asks of whatever gives it latencies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.intervals import Interval
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.output_agreement import OutputAgreement
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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How fast finished networks are, side by side.

    Attributes:
        estimate_ms: of each network, the sum of its tasks.
        speedup: of each network but "dense": the dense latency over its own. Measured where
            `latency_ms` is, else of the estimates.
        latency_ms: of each whole network, measured; empty where there is no device.
        noise_floor: see `intervals.noise_floor`; None where nothing is timed.
        libraries: of each network, compiled; empty where there is no compiler.
        agreement: of each compiled network's answers with torch's.
        note: see `Result.compiled_note`.
    """

    estimate_ms: Mapping[str, float] = field(default_factory=dict)
    speedup: Mapping[str, Interval] = field(default_factory=dict)
    latency_ms: Mapping[str, Interval] = field(default_factory=dict)
    noise_floor: float | None = None
    libraries: Mapping[str, Path] = field(default_factory=dict)
    agreement: Mapping[str, OutputAgreement] = field(default_factory=dict)
    note: str = ""


class LatencyBackend(Protocol):
    """Gives a run its latencies. The dense network's tasks are known when it is opened.

    Not thread-safe.
    """

    @property
    def device_name(self) -> str:
        """Full name, which opens the same device again."""

    @property
    def network(self) -> Network:
        """Description that tables, plans and searches refer to."""

    @property
    def descriptor(self) -> DeviceDescriptor:
        """What an agent is told of the device."""

    @property
    def interpolator(self) -> LatencyInterpolator:
        """Latencies that an agent may be trained on."""

    @property
    def spent(self) -> Mapping[str, float]:
        """Trials and seconds that `interpolator` took, except for schemes."""

    @property
    def spent_on_schemes(self) -> Mapping[str, float]:
        """Trials and seconds that measuring schemes took."""

    @property
    def latency_source(self) -> str:
        """`result.MEASURED`, or the recording that latencies are read from."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What was timed where, when and with which versions."""

    def source(self) -> LatencySource:
        """Open latencies for one search, with counters of its own.

        Raises:
            DeviceError: the device is gone.
        """

    def timed_tasks(self, plans: Collection[Plan]) -> list[tuple[Workload, TaskCost]]:
        """List every task that was timed, those of some plans included, for a recording."""

    def compare(
        self, networks: Mapping[str, FinishedNetwork], folder: Path, progress: ProgressLog
    ) -> Comparison:
        """Compare finished networks on equal terms.

        Args:
            networks: by name; the first is "dense".
            folder: where libraries are built.

        Raises:
            ModelError: a compiled network does not compute what torch computes.
            DeviceError: the device is gone.
        """
