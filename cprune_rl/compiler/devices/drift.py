"""Drift: a machine that throttles, or serves somebody else too, is seen by a workload that never
changes.

Called by the devices around every batch of trials.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from cprune_rl.core.protocols import Measurement

__all__ = ["DriftMonitor"]

# looks that the running median is taken of: a device that stays slower becomes the new normal
_MEMORY = 31


class DriftMonitor:
    """Times trials between looks at a reference workload;

    where that moved, the trials are timed again.

    Args:
        time_reference: times the reference workload.
        every: trials between two looks.
        max_drift: how far a reference timing may be from the median of the device's own looks, as a share of
            it.
        max_retimings: how often the trials since the last good reference timing are timed again; the last timing
            counts then.
    """

    def __init__(
        self,
        time_reference: Callable[[], Measurement],
        every: int = 8,
        max_drift: float = 0.25,
        max_retimings: int = 2,
    ) -> None:
        self._time_reference, self._every, self._max_drift, self._n_again = (
            time_reference,
            every,
            max_drift,
            max_retimings,
        )
        self._seen: deque[float] = deque(maxlen=_MEMORY)

    def time(self, trials: Sequence[Callable[[], Measurement]]) -> list[Measurement]:
        """Runs each trial, in order.

        Returns:
            Their measurements, with the reference's seconds around them; one that failed is not
            tried again.
        """
        measurements: list[Measurement] = []
        before = self._reference_s()
        for start in range(0, len(trials), self._every):
            group = trials[start : start + self._every]
            timed = [trial() for trial in group]
            after = self._reference_s()
            for _ in range(self._n_again):
                if self._is_steady(before) and self._is_steady(after):
                    break
                before, timed = (
                    after,
                    [trial() if m.samples_s else m for trial, m in zip(group, timed, strict=True)],
                )
                after = self._reference_s()
            looks = [s for s in (before, after) if s]
            measurements += [replace(m, reference_s=median(looks) if looks else 0.0) for m in timed]
            before = after
        return measurements

    def _reference_s(self) -> float:
        """Seconds of the reference workload;

        0 where it could not be timed, which says nothing about drift.
        """
        found = self._time_reference()
        if not found.samples_s:
            return 0.0
        self._seen.append(found.latency_s)
        return found.latency_s

    def _is_steady(self, reference_s: float) -> bool:
        return not reference_s or abs(reference_s / median(self._seen) - 1) <= self._max_drift
