"""Notices drift: a machine that throttles, or works for somebody else too, times all slower."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from cprune_rl.core.protocols import Measurement

__all__ = ["DriftMonitor"]

# Reference timings in the running median: a device that stays slower becomes the new normal.
_MEMORY = 31


class DriftMonitor:
    """Times trials between timings of a reference workload, and again where that changed.

    Args:
        time_reference: times the reference workload.
        every: trials between two reference timings.
        max_drift: how far a reference timing may be from the running median, as a share of it.
        max_retimings: how often trials are timed again; the last timing counts then.
    """

    def __init__(
        self,
        time_reference: Callable[[], Measurement],
        every: int = 8,
        max_drift: float = 0.25,
        max_retimings: int = 2,
    ) -> None:
        self._time_reference = time_reference
        self._every = every
        self._max_drift = max_drift
        self._max_retimings = max_retimings
        self._reference_times: deque[float] = deque(maxlen=_MEMORY)

    def time(self, trials: Sequence[Callable[[], Measurement]]) -> list[Measurement]:
        """Run each trial, in order.

        Returns:
            Their measurements, with the reference's seconds around them. A trial that failed is not
            repeated.
        """
        measurements: list[Measurement] = []
        before = self._reference_s()
        for start in range(0, len(trials), self._every):
            group = trials[start : start + self._every]
            timed = [trial() for trial in group]
            after = self._reference_s()
            for _ in range(self._max_retimings):
                if self._is_steady(before) and self._is_steady(after):
                    break
                before = after
                timed = [
                    trial() if m.samples_s else m for trial, m in zip(group, timed, strict=True)
                ]
                after = self._reference_s()
            reference_s = median([s for s in (before, after) if s] or [0.0])
            measurements += [replace(m, reference_s=reference_s) for m in timed]
            before = after
        return measurements

    def _reference_s(self) -> float:
        """Time the reference; 0 where it failed, which says nothing about drift."""
        timed = self._time_reference()
        if not timed.samples_s:
            return 0.0
        self._reference_times.append(timed.latency_s)
        return timed.latency_s

    def _is_steady(self, reference_s: float) -> bool:
        if not reference_s:
            return True
        return abs(reference_s / median(self._reference_times) - 1) <= self._max_drift
