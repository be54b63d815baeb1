"""Which variants of a subgraph are worth trying at which channels, by what was seen at others.

How variants compare changes with the channels: Winograd's filtering pays on many, the plain variant on
few. The assumption is
that it changes no faster than their number: a variant that was three times slower may be the fastest
where channels read,
times channels written, are three times fewer, and is worth a look from there on. Called by the
tuner.
"""

from __future__ import annotations

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
        """One that goes on from here for itself."""
        copied = VariantSurvey(self._variants)
        copied._slowdowns = dict(self._slowdowns)
        return copied

    def record(self, channels: Channels, costs: Mapping[int, float]) -> None:
        """Takes in what variants cost at a shape, in place of what was known of that shape.

        Args:
            channels: of the shape.
            costs: seconds of each variant that was tried there; infinite where none of its programs
                ran.
        """
        fastest = min(costs.values())
        self._slowdowns[channels] = {
            variant: cost / fastest if math.isfinite(cost) else math.inf
            for variant, cost in costs.items()
        }

    def candidates(self, channels: Channels, tolerance: float) -> tuple[int, ...]:
        """The variants that may be the fastest at a shape; all, where nothing speaks for any.

        Args:
            channels: of the shape.
            tolerance: factor by which a variant may have been slower at the same shape.
        """
        return (
            tuple(
                variant for variant in self._variants if self._may_win(variant, channels, tolerance)
            )
            or self._variants
        )

    def _may_win(self, variant: int, channels: Channels, tolerance: float) -> bool:
        """By the nearest shape on which the variant was tried."""
        tried = [known for known, slowdowns in self._slowdowns.items() if variant in slowdowns]
        if not tried:
            return True
        nearest = min(tried, key=lambda known: _factor(known, channels))
        return self._slowdowns[nearest][variant] <= tolerance * _factor(nearest, channels)


def _factor(a: Channels, b: Channels) -> float:
    """By how much two shapes differ, at least 1."""
    return math.prod(max(m, n) / min(m, n) for m, n in zip(a, b, strict=True))
