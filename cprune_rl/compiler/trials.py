"""Trials: candidates are built two at a time, timed one at a time, checked, and kept in the cost cache.

One `TrialRunner` lives as long as a search; no process is started for a trial. Called by the tuner.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from cprune_rl.compiler.device import RpcDevice
from cprune_rl.compiler.program import Candidate
from cprune_rl.contracts import Artifact, Measurement
from cprune_rl.cost_cache import CostStore, StoredTrial
from cprune_rl.errors import ToolchainError
from cprune_rl.table import Workload

__all__ = ["TrialRunner"]

Check = Callable[[Artifact], str | None]
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
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)  # the compiler releases Python's lock

    def run(self, workload: Workload, candidates: Sequence[Candidate], check: Check | None = None) -> list[Measurement]:
        """Builds, times and keeps programs of one task.

        Args:
            workload: the task.
            candidates: programs applied to it.
            check: given the library of the fastest, says what is wrong with its output, or None; the next
                fastest is checked where one is wrong, and what is wrong is kept as a failure.

        Raises:
            DeviceError: the device is gone.
            ToolchainError: nothing can be built here at all.
        """
        builds = [self._pool.submit(self._build, c) for c in candidates]
        try:
            built, measurements = self._timed(builds)
            if check is not None:
                self._check(built, measurements, check)
        finally:
            for future in builds:
                self._remove(future)
        self._store.add_trials(self._context, [StoredTrial(workload.key, c.program.digest, c.program.trace_json, m) for c, m in zip(candidates, measurements, strict=True)])
        return measurements

    def _timed(self, builds: Sequence[Future[Artifact | Measurement]]) -> tuple[list[Artifact | Measurement], list[Measurement]]:
        """On this machine's cores a build would disturb a timing beside it, so all are waited for; a remote device times while the rest is built."""
        at_once = max(_AT_ONCE, self._device.n_links) if self._device.is_remote else max(len(builds), 1)
        built: list[Artifact | Measurement] = []
        measurements: list[Measurement] = []
        for start in range(0, len(builds), at_once):
            group = [b.result() for b in builds[start : start + at_once]]
            artifacts = [a for a in group if isinstance(a, Artifact)]
            timed = iter(self._device.time(artifacts) if artifacts else [])
            built += group
            measurements += [next(timed) if isinstance(b, Artifact) else b for b in group]
        return built, measurements

    def _check(self, built: Sequence[Artifact | Measurement], measurements: list[Measurement], check: Check) -> None:
        for at in sorted(range(len(built)), key=lambda i: measurements[i].latency_s):
            artifact = built[at]
            if not isinstance(artifact, Artifact) or measurements[at].error is not None:
                return
            if (wrong := check(artifact)) is None:
                return
            measurements[at] = Measurement(error=wrong)

    def _build(self, candidate: Candidate) -> Artifact | Measurement:
        path = self._device.build_folder / f"trial{next(self._numbers)}.so"
        try:
            arguments = ArgInfo.from_entry_func(candidate.module, remove_preproc=True)
            shapes = [tuple(int(d) for d in a.shape) for a in arguments]
            return self._device.build(candidate.module, shapes, [str(a.dtype) for a in arguments], path)
        except OSError as error:  # a full disk says nothing about the program: it must not be kept as its failure
            raise ToolchainError(f"programs cannot be built: {error}. Free some space, then go on with --resume.") from error
        except Exception as error:  # whatever the compiler raises on a broken program is the value of this trial
            return Measurement(error=f"build failed: {type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}")

    @staticmethod
    def _remove(build: Future[Artifact | Measurement]) -> None:
        with contextlib.suppress(Exception):
            if isinstance(artifact := build.result(), Artifact):
                Path(artifact.path).unlink()
