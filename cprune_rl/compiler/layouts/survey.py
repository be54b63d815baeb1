"""The variants of a subgraph that are worth trying at a shape, by how they compared at others.

How variants compare changes with the channels: Winograd's filtering pays on many, NCHW on few. The
assumption is that it changes no faster than the number of multiplications. A variant that was
three times slower may be the fastest where channels read, times channels written, are three times
fewer. From there on it is tried again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

__all__ = ["Channels", "VariantSurvey"]

Channels = tuple[int, int]  # read, written


class VariantSurvey:
    """How the variants of one subgraph compared, at each shape where they were tried.

    Args:
        variants: that it can take.
    """

    def __init__(self, variants: Sequence[int]) -> None:
        self._variants = tuple(variants)
        self._slowdowns: dict[Channels, dict[int, float]] = {}

    def copy(self) -> VariantSurvey:
        """Return a survey that goes on from here by itself."""
        copied = copy.copy(self)
        copied._slowdowns = dict(self._slowdowns)
        return copied

    def record(self, channels: Channels, costs: Mapping[int, float]) -> None:
        """Keep what variants cost at a shape, in the place of an earlier record of that shape.

        Args:
            channels: of the shape.
            costs: seconds of each variant that was tried there; infinite where none of its
                schedules ran.
        """
        fastest = min(costs.values())
        self._slowdowns[channels] = {
            variant: cost / fastest if math.isfinite(cost) else math.inf
            for variant, cost in costs.items()
        }

    def candidates(self, channels: Channels, tolerance: float) -> tuple[int, ...]:
        """Return the variants that may be the fastest at a shape; all, where none may.

        Args:
            channels: of the shape.
            tolerance: factor by which a variant may have been slower at the same shape.
        """
        candidates = [v for v in self._variants if self._may_win(v, channels, tolerance)]
        return tuple(candidates) or self._variants

    def _may_win(self, variant: int, channels: Channels, tolerance: float) -> bool:
        """Judge a variant by the nearest shape on which it was tried."""
        tried = [shape for shape, slowdowns in self._slowdowns.items() if variant in slowdowns]
        if not tried:
            return True
        nearest = min(tried, key=lambda shape: _factor(shape, channels))
        return self._slowdowns[nearest][variant] <= tolerance * _factor(nearest, channels)


def _factor(a: Channels, b: Channels) -> float:
    """Return by how much two shapes differ, at least 1."""
    return math.prod(max(m, n) / min(m, n) for m, n in zip(a, b, strict=True))
