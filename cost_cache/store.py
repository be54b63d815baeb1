"""The contract of the cost cache. Plain values only: this package imports no tvm and no torch."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from cprune_rl import __version__
from cprune_rl.core.network import Workload
from cprune_rl.core.protocols import Accuracy, Measurement
from cprune_rl.core.system_info import processor_name

__all__ = ["ContextSummary", "CostStore", "Provenance", "StoredTrial", "Tuning"]


@dataclass(frozen=True)
class Provenance:
    """Who measured a trial.

    Attributes:
        version: of cprune-rl.
        processor: of the machine that wrote the trial, which built the program and asked the
            device.
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
            __version__, processor_name(), platform.platform(), platform.python_version()
        )


@dataclass(frozen=True)
class StoredTrial:
    """One schedule timed on one workload: failures are kept as well.

    Attributes:
        workload: key of the workload.
        trace_digest: names the schedule trace.
        trace_json: the schedule trace itself.
        measurement: raw samples, or an error.
        provenance: who measured it; set by the store where it is None.
        created: when, in seconds since the epoch; set by the store where it is 0.
    """

    workload: str
    trace_digest: str
    trace_json: str
    measurement: Measurement
    provenance: Provenance | None = field(default=None, compare=False)
    created: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Tuning:
    """A way of tuning that was carried through on a workload.

    Attributes:
        trace_digests: of the schedules that it asked for.
        seconds: building and timing took.
        created: when, in seconds since the epoch; set by the store.
    """

    trace_digests: tuple[str, ...]
    seconds: float
    created: float = 0.0


@dataclass(frozen=True)
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

    Writers may be many processes; each call is one transaction, and what it committed outlives a
    `kill -9`. A `context` names what a latency depends on besides the workload and the program:
    target,
    device fingerprint, TVM version, timing settings. One object belongs to one thread.

    Every method may raise `StoreError`: the file is damaged, the disk is full, the server is gone.
    """

    def add_trials(self, context: str, trials: Sequence[StoredTrial]) -> None:
        """Keeps trials; one that is already there (same context, workload and program) is left as
        it was.
        """

    def trials(self, context: str, workload: str) -> list[StoredTrial]:
        """All trials of a workload, fastest first, failures last."""

    def describe(self, workloads: Sequence[Workload]) -> None:
        """Keeps what workloads are, so that `fastest` can give them back;

        a description that is there is left as it was.
        """

    def fastest(
        self, context: str, family: str | None = None
    ) -> list[tuple[Workload, StoredTrial]]:
        """The fastest working trial of every described workload, by median, in the order of
        workload keys.

        Args:
            context: whose trials.
            family: only workloads of this family; None for all.
        """

    def contexts(self) -> list[ContextSummary]:
        """What is kept of each context that has a trial, in the order of their names."""

    def mark_tuned(self, context: str, workload: str, tuning_key: str, tuning: Tuning) -> None:
        """Notes that every schedule that this way of tuning asks for has been tried.

        Nothing is noted where a trial of one of them is not there (any more): it was pruned
        meanwhile.
        """

    def tuned(self, context: str, workload: str, tuning_key: str) -> Tuning | None:
        """What this way of tuning took; None where it was not carried through."""

    def put_accuracy(self, key: str, accuracy: Accuracy) -> None:
        """Keeps an oracle's answer under the hash of weights, plan, data and settings."""

    def accuracy(self, key: str) -> tuple[Accuracy, float] | None:
        """An oracle's earlier answer and when it was given, in seconds since the epoch;

        None where there is none.
        """

    def close(self) -> None:
        """Releases the connection; may be called twice."""
