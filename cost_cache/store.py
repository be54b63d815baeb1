"""The contract of the cost cache. Plain values only: this package imports no tvm and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cprune_rl.contracts import Accuracy, Measurement

__all__ = ["CostStore", "StoredTrial", "Tuning"]


@dataclass(frozen=True)
class StoredTrial:
    """One program timed on one workload: failures are kept as well.

    Attributes:
        workload: key of the workload.
        program: digest of the program.
        program_json: the program itself.
        measurement: raw samples, or an error.
    """

    workload: str
    program: str
    program_json: str
    measurement: Measurement


@dataclass(frozen=True)
class Tuning:
    """A recipe carried through on a workload.

    Attributes:
        programs: digests of the programs it asked for.
        seconds: building and timing took.
        created: when, in seconds since the epoch; set by the store.
    """

    programs: tuple[str, ...]
    seconds: float
    created: float = 0.0


@runtime_checkable
class CostStore(Protocol):
    """Keeps trials and accuracies.

    Writers may be many processes; each call is one transaction, and what it committed outlives a
    `kill -9`. A `context` names what a latency depends on besides the workload and the program: target,
    device fingerprint, TVM version, timing settings. One object belongs to one thread.

    Every method may raise `StoreError`: the file is damaged, the disk is full, the server is gone.
    """

    def add_trials(self, context: str, trials: Sequence[StoredTrial]) -> None:
        """Keeps trials; one that is already there (same context, workload and program) is left as it was."""

    def trials(self, context: str, workload: str) -> list[StoredTrial]:
        """All trials of a workload, fastest first, failures last."""

    def mark_tuned(self, context: str, workload: str, recipe: str, tuning: Tuning) -> None:
        """Notes that every program a recipe asks for has been tried."""

    def tuned(self, context: str, workload: str, recipe: str) -> Tuning | None:
        """What the recipe took; None where it was not carried through."""

    def put_accuracy(self, key: str, accuracy: Accuracy) -> None:
        """Keeps an oracle's answer under the hash of weights, plan, data and settings."""

    def accuracy(self, key: str) -> tuple[Accuracy, float] | None:
        """An oracle's earlier answer and when it was given, in seconds since the epoch; None where there is none."""

    def close(self) -> None:
        """Releases the connection; may be called twice."""
