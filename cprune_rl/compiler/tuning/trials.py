"""Trials: candidates are built on every core that this process may use, timed one at a time on each
link, checked, and kept in the cost cache.

One `TrialRunner` lives as long as a search; no process is started for a trial. Called by the tuner.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cprune_rl.compiler.devices.rpc_device import RpcDevice
from cprune_rl.compiler.tuning.schedule import Candidate
from cprune_rl.core.protocols import Artifact, Measurement
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache import CostStore, StoredTrial
from cprune_rl.errors import CPruneError, DeviceError, last_line

__all__ = ["TrialRunner", "build_candidate"]

Check = Callable[[Artifact], str | None]
Tables = Mapping[int, NDArray[np.generic]]
_AT_ONCE = 4  # programs sent to a remote device together


class TrialRunner:
    """Turns candidates into measurements.

    Args:
        device: where they are timed.
        store: keeps every trial.
        context: under which the store keeps them.
    """

    def __init__(self, device: RpcDevice, store: CostStore, context: str) -> None:
        self._device, self._store, self._context = device, store, context
        self._numbers = itertools.count()
        self._pool = ThreadPoolExecutor(
            len(os.sched_getaffinity(0))
        )  # the compiler releases Python's lock

    def run(
        self,
        workload: Workload,
        candidates: Sequence[Candidate],
        check: Check | None = None,
        tables: Tables | None = None,
    ) -> list[Measurement]:
        """Builds, times and keeps programs of one task.

        Args:
            workload: the task.
            candidates: programs applied to it.
            check: given the library of the fastest, says what is wrong with its output, or None;
                the next
                fastest is checked where one is wrong, and what is wrong is kept as a failure.
            tables: arguments that decide what a program reads, by position.

        Raises:
            DeviceError: the device is gone; what can be believed of this batch is kept.
            ToolchainError: nothing can be built here at all.
        """
        builds = [self._pool.submit(self._build, c, tables or {}) for c in candidates]
        built: list[Artifact | Measurement] = []
        measurements: list[Measurement] = []
        try:
            self._time(builds, built, measurements)
            if check is not None:
                self._check(built, measurements, check)
        except DeviceError:
            self._keep_believable(workload, candidates, measurements, is_checked=check is not None)
            raise
        finally:
            for future in builds:
                self._remove(future)
        self._keep(workload, zip(candidates, measurements, strict=True))
        return measurements

    def _keep(self, workload: Workload, trials: Iterable[tuple[Candidate, Measurement]]) -> None:
        self._store.add_trials(
            self._context,
            [
                StoredTrial(
                    workload=workload.key,
                    trace_digest=c.trace.digest,
                    trace_json=c.trace.json,
                    measurement=m,
                )
                for c, m in trials
            ],
        )

    def _keep_believable(
        self,
        workload: Workload,
        candidates: Sequence[Candidate],
        measurements: Sequence[Measurement],
        *,
        is_checked: bool,
    ) -> None:
        """Keeps what was timed before the device went away, but nothing that would be the task's
        fastest program with its output unseen, and no failure: it may be the device's.
        """
        known = self._store.trials(self._context, workload.key)
        fastest_s = (
            known[0].measurement.latency_s if known else math.inf
        )  # its output was looked at when it was tried
        trials = zip(candidates, measurements, strict=False)  # the rest was not timed
        self._keep(
            workload,
            [
                (c, m)
                for c, m in trials
                if m.error is None and (not is_checked or m.latency_s >= fastest_s)
            ],
        )

    def _time(
        self,
        builds: Sequence[Future[Artifact | Measurement]],
        built: list[Artifact | Measurement],
        measurements: list[Measurement],
    ) -> None:
        """Adds to `built` and `measurements` as it goes, so that what was timed outlives an error.

        On this machine's cores a build would disturb a timing beside it, so all are waited for; a
        remote device times while the rest is built.
        """
        at_once = (
            max(_AT_ONCE, self._device.n_sessions)
            if self._device.is_remote
            else max(len(builds), 1)
        )
        for start in range(0, len(builds), at_once):
            group = [b.result() for b in builds[start : start + at_once]]
            artifacts = [a for a in group if isinstance(a, Artifact)]
            timed = iter(self._device.time(artifacts) if artifacts else [])
            built += group
            measurements += [next(timed) if isinstance(b, Artifact) else b for b in group]

    def _check(
        self, built: Sequence[Artifact | Measurement], measurements: list[Measurement], check: Check
    ) -> None:
        for at in sorted(range(len(built)), key=lambda i: measurements[i].latency_s):
            artifact = built[at]
            if not isinstance(artifact, Artifact) or measurements[at].error is not None:
                return
            if (wrong := check(artifact)) is None:
                return
            measurements[at] = Measurement(error=wrong)

    def _build(self, candidate: Candidate, tables: Tables) -> Artifact | Measurement:
        built = build_candidate(
            self._device, candidate, self._device.build_folder / f"trial{next(self._numbers)}.so"
        )
        return replace(built, tables=tables) if isinstance(built, Artifact) else built

    @staticmethod
    def _remove(build: Future[Artifact | Measurement]) -> None:
        with contextlib.suppress(Exception):
            if isinstance(artifact := build.result(), Artifact):
                Path(artifact.path).unlink()


def build_candidate(device: RpcDevice, candidate: Candidate, path: Path) -> Artifact | Measurement:
    """Builds a candidate for a device; a failed measurement where the compiler refuses it.

    Args:
        device: what to build for.
        candidate: the program.
        path: library to write.

    Raises:
        ToolchainError: nothing can be built here at all.
    """
    try:
        return device.build(candidate.module, path)
    except CPruneError:
        raise
    except (
        Exception
    ) as error:  # whatever the compiler raises on a broken program is the value of this trial
        return Measurement(error=f"build failed: {type(error).__name__}: {last_line(error)}")
