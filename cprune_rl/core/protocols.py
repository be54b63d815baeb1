"""What a device, a source of latencies and an accuracy oracle promise.

Environments and agents are written against these protocols, never against an implementation. The
implementations are in `compiler`, `latency` and `accuracy`; `cprune_rl.testing` has doubles, and a
conformance suite for each protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, stdev
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.gate_model import GateModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.workload import Workload

__all__ = [
    "Accuracy",
    "AccuracyOracle",
    "Artifact",
    "Device",
    "FullAnswer",
    "FullFinetunes",
    "LatencySource",
    "Measurement",
    "Spending",
    "SupportsTrialCount",
    "TaskCost",
    "least_trials_needed",
]


@dataclass(frozen=True)
class Measurement:
    """The result of timing one schedule: all raw samples, or an error. It never raises.

    Attributes:
        samples_s: seconds of one run, one entry for each repeat; empty where it failed.
        error: why it failed; None where it did not.
        reference_s: the device's reference workload, timed just before and after it to show drift;
            0 where not timed.
    """

    samples_s: tuple[float, ...] = ()
    error: str | None = None
    reference_s: float = 0.0

    @property
    def latency_s(self) -> float:
        """Median of the samples; infinity where the measurement failed."""
        return median(self.samples_s) if self.samples_s else float("inf")

    @property
    def spread(self) -> float:
        """Standard deviation of the samples over their median; 0 for fewer than two samples."""
        return stdev(self.samples_s) / self.latency_s if len(self.samples_s) > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A schedule built for a device: a shared library with one function, and its arguments.

    Attributes:
        path: the library on this machine.
        shapes: shape of each argument, outputs last.
        dtypes: dtype of each argument.
        tables: arguments that say what to read, by position. A timing needs these values; for the
            other arguments any will do.
    """

    path: str
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    tables: Mapping[int, NDArray[np.generic]] = field(
        default_factory=dict, compare=False, repr=False
    )


@runtime_checkable
class Device(Protocol):
    """Times schedules.

    Not thread-safe: two timings at once disturb each other, so there is one caller at a time. The
    device owns its session; `close` ends it and may be called twice.
    """

    @property
    def name(self) -> str:
        """Opens the same device again.

        Examples: `local?threads=2&mcpu=haswell`, `rpc://host:port/key?threads=1`.
        """

    @property
    def fingerprint(self) -> str:
        """What decides a latency besides the schedule: processor, threads, timing settings."""

    @property
    def is_remote(self) -> bool:
        """Whether it is another machine, so that building here does not disturb timing there."""

    def time(self, artifacts: Sequence[Artifact]) -> list[Measurement]:
        """Times each artifact alone, between runs of a reference workload that show drift.

        Returns:
            One measurement for each artifact, in order. A crash or a hang is a measurement with an
            error.

        Raises:
            DeviceError: the device is gone and did not come back.
        """

    def run(
        self, artifact: Artifact, arguments: Sequence[NDArray[np.generic]]
    ) -> tuple[NDArray[np.generic], ...] | Measurement:
        """Runs an artifact once, so that its output can be compared with a reference.

        Args:
            artifact: to run.
            arguments: values of its first arguments, the inputs; the others start as zeros.

        Returns:
            The values of the other arguments after the run; a measurement with the error where it
            crashed or hung.

        Raises:
            DeviceError: the device is gone and did not come back.
        """

    def close(self) -> None:
        """Ends the session."""


@dataclass(frozen=True, kw_only=True)
class TaskCost:
    """The latency of a task by its fastest schedule, and how that schedule tiles it.

    Attributes:
        latency_s: seconds of one run; infinity where every trial failed.
        tile_factors: split of the output-channel loop, outermost first; empty where it is not
            tiled.
        is_measured: timed on the device, not predicted.
        error: why there is no schedule; None where there is one.
        lanes: channels that one iteration of the tiled loop computes: the block of a packed layout,
            else 1.
        spread: standard deviation of the samples over `latency_s`; 0 where nothing was sampled.
        interval_s: of a prediction; None where the latency was measured, or interpolated without an
            interval.
    """

    latency_s: float
    tile_factors: tuple[int, ...] = ()
    is_measured: bool = True
    error: str | None = None
    lanes: int = 1
    spread: float = 0.0
    interval_s: tuple[float, float] | None = None


@dataclass(kw_only=True)
class Spending:
    """Running totals of a source of latencies or an oracle; a search's cost is a difference.

    Attributes:
        fresh_trials: schedules built and timed because the cost cache did not hold them.
        cached_trials: schedules whose time came from the cost cache.
        accuracy_evaluations: fresh evaluations of an oracle.
        full_finetunes: plans that were fine-tuned in full, and judged by the final gate.
        measure_s: seconds in building and timing.
        train_s: seconds in fine-tuning and evaluation.
    """

    fresh_trials: int = 0
    cached_trials: int = 0
    accuracy_evaluations: int = 0
    full_finetunes: int = 0
    measure_s: float = 0.0
    train_s: float = 0.0


@runtime_checkable
class LatencySource(Protocol):
    """Task latencies, measured and predicted.

    Not thread-safe. One source gives equal workloads equal predictions until `measure` learns more.
    """

    @property
    def spending(self) -> Spending:
        """Running totals."""

    def measure(self, plan: Plan) -> list[TaskCost]:
        """Measures each subgraph of a plan: from the cost cache, or by building and timing.

        A task without a schedule that runs is a cost with an error.

        Raises:
            DeviceError: the device is gone.
        """

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Predicts without a trial; a task that was measured has its measured cost."""


@runtime_checkable
class SupportsTrialCount(Protocol):
    """A source of latencies that says beforehand how many trials a plan needs."""

    def trials_needed(self, plan: Plan) -> int:
        """Fresh trials that `measure` would take at least; exact for a recording."""


def least_trials_needed(source: LatencySource, network: Network, plan: Plan) -> int:
    """Fresh trials that measuring a plan takes at least.

    Where the source cannot say, each task that was not measured counts as one, which is too few.
    """
    if isinstance(source, SupportsTrialCount):
        return source.trials_needed(plan)
    workloads = {w.key: w for w in network.workloads(plan)}
    return sum(not cost.is_measured for cost in source.predict(list(workloads.values())))


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """An oracle's answer.

    Attributes:
        value: accuracy that the plan would have after fine-tuning, in [0, 1].
        standard_error: of `value`, calibration residual included.
        n_images: images that it was judged on.
        cost_s: seconds that it took; 0 where it was cached.
    """

    value: float
    standard_error: float = 0.0
    n_images: int = 0
    cost_s: float = 0.0


@runtime_checkable
class AccuracyOracle(Protocol):
    """Judges plans without fine-tuning them in full. One plan has one answer."""

    @property
    def spending(self) -> Spending:
        """Running totals."""

    def accuracy(self, plan: Plan) -> Accuracy:
        """The (calibrated) accuracy of a plan."""

    def accuracies(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """The same for several plans, in order; faster where an oracle can judge them together."""


@dataclass(frozen=True, kw_only=True)
class FullAnswer:
    """What the full fine-tune of a plan says.

    Attributes:
        accuracy: on the search images, as the oracle's answers are; nothing is calibrated.
        holds: whether the final gate lets the network pass, by images of its own.
    """

    accuracy: Accuracy
    holds: bool


@runtime_checkable
class FullFinetunes(Protocol):
    """Fine-tunes plans in full within a search, and has the final gate judge them.

    A search learns from the accuracy and is told no more than pass or fail by the gate.
    """

    @property
    def spending(self) -> Spending:
        """Running totals."""

    @property
    def gate(self) -> GateModel:
        """What is known of the gate before it is asked."""

    def look(self, plan: Plan, n_looks: int) -> FullAnswer:
        """Fine-tune one plan.

        Args:
            plan: not the dense one.
            n_looks: how often at most the search asks; the gate is the stricter for it.
        """
