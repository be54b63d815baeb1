"""From what an oracle says to what the full fine-tune would give:

maps that are fitted on a few plans of each network.

Plans that prune layers by schemes have a map of their own: a short training exaggerates what blocks
lose in another way than what channels do.

Called by the job, which has those plans fine-tuned, and by `oracle`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cprune_rl.core.network import Plan

__all__ = ["Calibration", "CalibrationPoint", "Calibrations"]

# where one point alone is known: a short fine-tune exaggerates large losses more than small ones
_DEFAULT_POWER = 0.5
_SMALLEST_LOSS = 5e-4  # below what thousands of images can tell
_NOISE = 1.5e-3  # of an accuracy after a full fine-tune, on some thousands of images
_SCATTER = 0.2  # of the logarithm of a loss around a power law, noise apart


@dataclass(frozen=True)
class Calibration:
    """A monotone map from an oracle's loss to the loss after full fine-tuning:

    `scale * loss ** power`.

    A power law has no plateaus: a plan that the oracle likes better is never rated alike.

    Attributes:
        scale: loss after full fine-tuning where the oracle sees all accuracy lost.
        power: above 0.
        residual: root mean square of leave-one-out errors, in accuracy: what the map does not know.
    """

    scale: float = 1.0
    power: float = 1.0
    residual: float = 0.0

    def __call__(self, raw_loss: float) -> float:
        """The loss after full fine-tuning; 0 where the oracle sees none."""
        return float(self.scale * max(raw_loss, 0.0) ** self.power)

    @staticmethod
    def fit(points: Sequence[tuple[float, float]]) -> Calibration:
        """Fits the map by weighted least squares in logarithms.

        Args:
            points: `(raw loss, full loss)` of at least two plans.
        """
        residuals = [
            _power_law([*points[:i], *points[i + 1 :]])(raw) - full
            for i, (raw, full) in enumerate(points)
        ]
        fitted = _power_law(points)
        return Calibration(
            fitted.scale, fitted.power, math.sqrt(sum(r * r for r in residuals) / len(residuals))
        )


class CalibrationPoint(NamedTuple):
    """A plan that was fine-tuned in full:

    what the oracle saw it lose, and what it lost, in accuracy.
    """

    plan: Plan
    cheap_loss: float
    full_loss: float


@dataclass(frozen=True)
class Calibrations:
    """The maps of a network.

    Attributes:
        dense: widths of the dense network.
        channels: of plans that are narrower.
        schemes: of plans with schemes.
    """

    dense: tuple[int, ...] = ()
    channels: Calibration = field(default_factory=Calibration)
    schemes: Calibration = field(default_factory=Calibration)

    def full_loss(self, plan: Plan, cheap_loss: float) -> tuple[float, float]:
        """A plan's loss after full fine-tuning, and what is not known of it;

        of a narrower plan with schemes the larger of what both maps say.

        Args:
            plan: that was looked at.
            cheap_loss: lost by it, as the oracle says.
        """
        maps = [
            m
            for m, applies in (
                (self.channels, not plan.schemes or plan.widths != self.dense),
                (self.schemes, bool(plan.schemes)),
            )
            if applies
        ]
        return max((m(cheap_loss), m.residual) for m in maps)

    @staticmethod
    def fit(points: Sequence[CalibrationPoint], dense: tuple[int, ...]) -> Calibrations:
        """Fits each map to the plans of its kind alone;

        a kind that has not two of them gets a map of all.

        Args:
            points: two or more.
            dense: widths of the dense network.
        """
        kinds = [
            [
                (p.cheap_loss, p.full_loss)
                for p in points
                if has_schemes == bool(p.plan.schemes)
                and (not has_schemes or p.plan.widths == dense)
            ]
            for has_schemes in (False, True)
        ]
        every = [(p.cheap_loss, p.full_loss) for p in points]
        return Calibrations(
            dense, *(Calibration.fit(of_kind if len(of_kind) > 1 else every) for of_kind in kinds)
        )


def _power_law(points: Sequence[tuple[float, float]]) -> Calibration:
    """Small losses are mostly noise, which their logarithms would exaggerate:

    a plan that lost more says more.
    """
    raw, full = np.log(np.maximum(np.array(points, float), _SMALLEST_LOSS)).T
    weight = 1 / (_SCATTER**2 + (_NOISE / np.exp(full)) ** 2)
    weight /= weight.sum()
    raw_mean, full_mean = float(weight @ raw), float(weight @ full)
    spread = float(weight @ (raw - raw_mean) ** 2)
    slope = (
        float(weight @ ((raw - raw_mean) * (full - full_mean))) / spread
        if spread > 1e-6
        else _DEFAULT_POWER
    )
    power = min(max(slope, 0.2), 2.0)
    return Calibration(math.exp(full_mean - power * raw_mean), power)
