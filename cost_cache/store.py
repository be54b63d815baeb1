"""The contract of the cost cache, in plain values: this package imports no tvm and no torch."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from cprune_rl import __version__
from cprune_rl.core.protocols import Accuracy, Measurement
from cprune_rl.core.system_info import processor_name
from cprune_rl.core.workload import Workload

__all__ = ["ContextSummary", "CostStore", "Provenance", "StoredTrial", "Tuning"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Who measured a trial.

    Attributes:
        version: of cprune-rl.
        processor: of the machine that built the schedule, asked the device and wrote the trial.
        os: operating system of that machine.
        python: its version.
    """

    version: str
    processor: str
    os: str
    python: str

    @staticmethod
    def here() -> Provenance:
        """This process on this machine."""
        return Provenance(
            version=__version__,
            processor=processor_name(),
            os=platform.platform(),
            python=platform.python_version(),
        )


@dataclass(frozen=True, kw_only=True)
class StoredTrial:
    """One schedule timed on one workload. Failures are kept as well.

    Attributes:
        workload: key of the workload.
        trace_digest: names the schedule trace.
        trace_json: the schedule trace itself.
        measurement: raw samples, or an error.
        provenance: who measured it; the store fills in None.
        created: seconds since the epoch; the store fills in 0.
    """

    workload: str
    trace_digest: str
    trace_json: str
    measurement: Measurement
    provenance: Provenance | None = field(default=None, compare=False)
    created: float = field(default=0.0, compare=False)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A way of tuning that was completed on a workload.

    Attributes:
        key: names the way of tuning.
        trace_digests: of the schedules that it asked for.
        seconds: spent on building and timing.
        created: seconds since the epoch; the store fills in 0.
    """

    key: str
    trace_digests: tuple[str, ...]
    seconds: float
    created: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ContextSummary:
    """What is kept of one context.

    Attributes:
        context: target, device fingerprint, TVM version, timing settings.
        n_workloads: workloads with a trial.
        n_trials: trials, failures included.
        n_failures: trials without a latency.
        first: when the oldest trial was made, in seconds since the epoch.
        last: when the newest was.
    """

    context: str
    n_workloads: int
    n_trials: int
    n_failures: int
    first: float
    last: float


@runtime_checkable
class CostStore(Protocol):
    """Keeps trials and accuracies.

    Many processes may write. Each call is one transaction; what it committed outlives a `kill -9`.
    One object belongs to one thread.

    Keys are made elsewhere. A `context` names what a latency depends on besides the workload and
    the schedule, `RpcDevice.context`: target, device fingerprint, TVM version, timing settings. A
    workload's key is `core.workload.Workload.key`, a schedule's
    `tuning.schedule.ScheduleTrace.digest`, an accuracy's that of `accuracy.oracle.PlanOracle`.

    Every method may raise `StoreError`: the file is damaged, the disk is full, the server is gone.
    `cprune_rl.testing.check_cost_store` checks an implementation.
    """

    def add_trials(self, context: str, trials: Sequence[StoredTrial]) -> None:
        """Keeps trials. One of the same context, workload and schedule stays as it was."""

    def trials(self, context: str, workload: str) -> list[StoredTrial]:
        """All trials of a workload, fastest first, failures last."""

    def describe(self, workloads: Sequence[Workload]) -> None:
        """Keeps what workloads are, for `fastest`. An earlier description stays as it was."""

    def fastest(
        self, context: str, family: str | None = None
    ) -> list[tuple[Workload, StoredTrial]]:
        """The fastest working trial of each described workload, by median, in the order of keys.

        Args:
            context: whose trials.
            family: only workloads of this family; None for all.
        """

    def contexts(self) -> list[ContextSummary]:
        """A summary of each context that has a trial, in the order of their names."""

    def mark_tuned(self, context: str, workload: str, tuning: Tuning) -> None:
        """Notes that every schedule of a tuning has been tried.

        Nothing is noted if one of them has no trial any more: it was removed meanwhile.
        """

    def tuned(self, context: str, workload: str, tuning_key: str) -> Tuning | None:
        """What a way of tuning took; None where it was not completed."""

    def put_accuracy(self, key: str, accuracy: Accuracy) -> None:
        """Keeps an oracle's answer under the hash of weights, plan, data and settings."""

    def accuracy(self, key: str) -> tuple[Accuracy, float] | None:
        """An oracle's answer and when it was given, in seconds since the epoch; None for none."""

    def close(self) -> None:
        """Releases the connection; may be called twice."""
