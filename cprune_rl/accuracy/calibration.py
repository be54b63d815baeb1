"""Maps the losses of a cheap evaluation to those of a full fine-tune.

The maps are fitted on a few plans of each network that were fine-tuned in full. Plans that prune
layers by schemes have a map of their own: a short training exaggerates what blocks lose in another
way than what channels do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from cprune_rl.core.network import Plan

__all__ = ["Calibration", "CalibrationPoint", "Calibrations"]

# used where one point alone is known: a short fine-tune exaggerates large losses more than small
# ones
_DEFAULT_POWER = 0.5
_POWER_RANGE = (0.2, 2.0)
_SMALLEST_LOSS = 5e-4  # below what thousands of images can tell
_NOISE = 1.5e-3  # of an accuracy after a full fine-tune, on some thousands of images
_SCATTER = 0.2  # of the logarithm of a loss around a power law, noise apart


@dataclass(frozen=True)
class Calibration:
    """Maps a cheap loss to the loss after full fine-tuning: `scale * loss ** power + offset`.

    A power law has no plateaus: of two plans, the one with the smaller cheap loss stays ahead.

    Attributes:
        scale: loss after full fine-tuning where the cheap evaluation loses all accuracy.
        power: above 0.
        residual: root mean square of leave-one-out errors, in accuracy.
        offset: 0 or less: a plan that is hardly pruned gains so much by the full fine-tune.
    """

    scale: float = 1.0
    power: float = 1.0
    residual: float = 0.0
    offset: float = 0.0

    def __call__(self, cheap_loss: float) -> float:
        """The loss after full fine-tuning; the offset where the cheap evaluation finds none."""
        return float(self.scale * max(cheap_loss, 0.0) ** self.power) + self.offset

    def slope(self, cheap_loss: float) -> float:
        """How much of an error of the cheap loss is left in the full one, in [0, 1]."""
        at = max(cheap_loss, _SMALLEST_LOSS)
        return min(float(self.scale * self.power * at ** (self.power - 1)), 1.0)

    @staticmethod
    def fit(points: Sequence[tuple[float, float]]) -> Calibration:
        """Fits the map by weighted least squares in logarithms.

        Args:
            points: `(cheap loss, full loss)` of at least two plans.
        """
        residuals = []
        for i, (cheap_loss, full_loss) in enumerate(points):
            others = [*points[:i], *points[i + 1 :]]
            residuals.append(_power_law(others)(cheap_loss) - full_loss)
        mean_square = sum(r * r for r in residuals) / len(residuals)
        return replace(_power_law(points), residual=math.sqrt(mean_square))


class CalibrationPoint(NamedTuple):
    """Holds a plan that was fine-tuned in full.

    Attributes:
        plan: what is kept.
        cheap_loss: that the cheap evaluation finds, in accuracy.
        full_loss: after the full fine-tune, in accuracy.
    """

    plan: Plan
    cheap_loss: float
    full_loss: float


@dataclass(frozen=True)
class Calibrations:
    """Holds the maps of a network.

    Attributes:
        dense: widths of the dense network.
        channels: of plans that are narrower.
        schemes: of plans with schemes.
    """

    dense: tuple[int, ...] = ()
    channels: Calibration = field(default_factory=Calibration)
    schemes: Calibration = field(default_factory=Calibration)

    def full_loss(
        self, plan: Plan, cheap_loss: float, cheap_error: float = 0.0
    ) -> tuple[float, float]:
        """Predicts a plan's loss after full fine-tuning, with the error of the prediction.

        Of a narrower plan with schemes it is the larger of both maps' losses.

        Args:
            plan: whose loss.
            cheap_loss: that the cheap evaluation finds.
            cheap_error: standard error of that, by the number of images.
        """
        maps = [self.schemes] if plan.schemes else []
        if not plan.schemes or plan.widths != self.dense:
            maps.append(self.channels)
        return max(
            (m(cheap_loss), math.hypot(m.residual, m.slope(cheap_loss) * cheap_error)) for m in maps
        )

    @staticmethod
    def fit(points: Sequence[CalibrationPoint], dense: tuple[int, ...]) -> Calibrations:
        """Fits each map to the plans of its kind alone.

        A kind that has not two of them gets a map of all.

        Args:
            points: two or more.
            dense: widths of the dense network.
        """
        every = [(p.cheap_loss, p.full_loss) for p in points]
        narrow = [(p.cheap_loss, p.full_loss) for p in points if not p.plan.schemes]
        sparse = [
            (p.cheap_loss, p.full_loss) for p in points if p.plan.schemes and p.plan.widths == dense
        ]
        return Calibrations(
            dense,
            channels=Calibration.fit(narrow if len(narrow) > 1 else every),
            schemes=Calibration.fit(sparse if len(sparse) > 1 else every),
        )


def _power_law(points: Sequence[tuple[float, float]]) -> Calibration:
    """Fits a line to the logarithms; small losses weigh less.

    They are mostly noise, which their logarithms would exaggerate. Where a plan gained, losses are
    counted from the largest gain: a logarithm knows no negative ones.
    """
    offset = min(0.0, *(full_loss for _, full_loss in points))
    above = np.array(points, float) - (0.0, offset)
    cheap, full = np.log(np.maximum(above, _SMALLEST_LOSS)).T
    weight = 1 / (_SCATTER**2 + (_NOISE / np.exp(full)) ** 2)
    weight /= weight.sum()
    cheap_mean = float(weight @ cheap)
    full_mean = float(weight @ full)
    spread = float(weight @ (cheap - cheap_mean) ** 2)
    power = _DEFAULT_POWER
    if spread > 1e-6:
        covariance = float(weight @ ((cheap - cheap_mean) * (full - full_mean)))
        power = min(max(covariance / spread, _POWER_RANGE[0]), _POWER_RANGE[1])
    return Calibration(math.exp(full_mean - power * cheap_mean), power, offset=offset)
