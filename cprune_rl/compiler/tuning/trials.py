"""Turns candidates into trials: built, timed, checked, and kept in the cost cache.

Builds run on every core that this process may use; each session times one program at a time. One
`TrialRunner` lives as long as a search, and no process is started for a trial.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.devices.library import cannot_build
from cprune_rl.compiler.tuning.schedule import Candidate
from cprune_rl.core.machine_failures import machine_failure
from cprune_rl.core.protocols import Artifact, Measurement
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache import CostStore, StoredTrial
from cprune_rl.errors import CPruneError, DeviceError, last_line

__all__ = ["TrialRunner", "build_candidate"]

Check = Callable[[Artifact], str | None]
Tables = Mapping[int, NDArray[np.generic]]
Built = Artifact | Measurement
_AT_ONCE = 4  # programs sent to a remote device together


class TrialRunner:
    """Turns candidates into measurements.

    Args:
        device: where they are timed.
        store: keeps every trial.
        context: under which the store keeps them.
    """

    def __init__(self, device: RpcDevice, store: CostStore, context: str) -> None:
        self._device = device
        self._store = store
        self._context = context
        self._numbers = itertools.count()
        # Threads will do: the compiler releases Python's lock.
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def run(
        self,
        workload: Workload,
        candidates: Sequence[Candidate],
        check: Check | None = None,
        tables: Tables | None = None,
    ) -> list[Measurement]:
        """Build, time and keep schedules of one task.

        Args:
            workload: the task.
            candidates: schedules applied to it.
            check: says what is wrong with a library's output, or None. It is given the fastest;
                where that is wrong, its trial becomes a failure and the next is checked.
            tables: arguments that decide what a program reads, by position.

        Raises:
            DeviceError: the device is gone; what can be believed of this batch is kept.
            ToolchainError: nothing can be built here at all.
        """
        builds = [self._pool.submit(self._build, c, tables or {}) for c in candidates]
        built: list[Built] = []
        measurements: list[Measurement] = []
        try:
            for artifact, measurement in self._timed(builds):
                built.append(artifact)
                measurements.append(measurement)
            if check is not None:
                self._check(built, measurements, check)
        except DeviceError:
            # Candidates that were not timed fall away.
            trials = zip(candidates, measurements, strict=False)
            self._keep_believable(workload, trials, is_checked=check is not None)
            raise
        finally:
            for future in builds:
                self._remove(future)
        self._keep(workload, zip(candidates, measurements, strict=True))
        return measurements

    def _timed(self, builds: Sequence[Future[Built]]) -> Iterator[tuple[Built, Measurement]]:
        """Time what was built, in order; a failed build is its own measurement.

        On this machine's cores a build would disturb a timing beside it, so all are waited for. A
        remote device times while the rest is built.
        """
        at_once = max(len(builds), 1)
        if self._device.is_remote:
            at_once = max(_AT_ONCE, self._device.n_sessions)
        for start in range(0, len(builds), at_once):
            group = [build.result() for build in builds[start : start + at_once]]
            artifacts = [built for built in group if isinstance(built, Artifact)]
            timed = iter(self._device.time(artifacts) if artifacts else [])
            for built in group:
                yield built, next(timed) if isinstance(built, Artifact) else built

    def _check(self, built: Sequence[Built], measurements: list[Measurement], check: Check) -> None:
        """Check the fastest until one is right; what is wrong with the others replaces them."""
        for at in sorted(range(len(built)), key=lambda i: measurements[i].latency_s):
            artifact = built[at]
            if not isinstance(artifact, Artifact) or measurements[at].error is not None:
                return
            problem = check(artifact)
            if problem is None:
                return
            measurements[at] = Measurement(error=problem)

    def _keep(self, workload: Workload, trials: Iterable[tuple[Candidate, Measurement]]) -> None:
        """Keep trials, but no failure that speaks of the machine."""
        stored = [
            StoredTrial(
                workload=workload.key,
                trace_digest=candidate.trace.digest,
                trace_json=candidate.trace.json,
                measurement=measurement,
            )
            for candidate, measurement in trials
            if measurement.error is None or machine_failure(measurement.error) is None
        ]
        self._store.add_trials(self._context, stored)

    def _keep_believable(
        self,
        workload: Workload,
        trials: Iterable[tuple[Candidate, Measurement]],
        *,
        is_checked: bool,
    ) -> None:
        """Keep what was timed before the device went away, but no failure: it may be the device's.

        Where outputs are checked, nothing is kept that would be the task's fastest schedule with
        its output unseen.
        """
        least_s = 0.0
        if is_checked:
            # The fastest known had its output checked when it was tried.
            earlier = self._store.trials(self._context, workload.key)
            least_s = earlier[0].measurement.latency_s if earlier else math.inf
        self._keep(
            workload, [(c, m) for c, m in trials if m.error is None and m.latency_s >= least_s]
        )

    def _build(self, candidate: Candidate, tables: Tables) -> Built:
        path = self._device.build_folder / f"trial{next(self._numbers)}.so"
        built = build_candidate(self._device, candidate, path)
        return replace(built, tables=tables) if isinstance(built, Artifact) else built

    @staticmethod
    def _remove(build: Future[Built]) -> None:
        with contextlib.suppress(Exception):
            if isinstance(artifact := build.result(), Artifact):
                Path(artifact.path).unlink()


def build_candidate(device: RpcDevice, candidate: Candidate, path: Path) -> Built:
    """Build a candidate for a device; a failed measurement where the compiler refuses it.

    Args:
        device: what to build for.
        candidate: the schedule.
        path: library to write.

    Raises:
        ToolchainError: nothing can be built here at all.
    """
    try:
        return device.build(candidate.module, path)
    except CPruneError:
        raise
    # Whatever the compiler raises on a broken schedule is the value of this trial.
    except Exception as error:
        reason = f"{type(error).__name__}: {last_line(error)}"
        if machine_failure(reason) is not None:
            raise cannot_build(reason) from error
        return Measurement(error=f"build failed: {reason}")
