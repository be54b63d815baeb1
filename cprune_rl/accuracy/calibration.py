"""From what an oracle says to what the full fine-tune would give: maps that are fitted on a few plans of each network.

Called by the job, which has those plans fine-tuned, and by `oracle`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Calibration"]

_DEFAULT_POWER = 0.5  # where one point alone is known: a short fine-tune exaggerates large losses more than small ones
_SMALLEST_LOSS = 5e-4  # below what thousands of images can tell


@dataclass(frozen=True)
class Calibration:
    """A monotone map from an oracle's loss to the loss after full fine-tuning: `scale * loss ** power`.

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
        """Fits the map by least squares in logarithms.

        Args:
            points: `(raw loss, full loss)` of at least two plans.
        """
        residuals = [_power_law([*points[:i], *points[i + 1 :]])(raw) - full for i, (raw, full) in enumerate(points)]
        fitted = _power_law(points)
        return Calibration(fitted.scale, fitted.power, math.sqrt(sum(r * r for r in residuals) / len(residuals)))


def _power_law(points: Sequence[tuple[float, float]]) -> Calibration:
    raw, full = np.log(np.maximum(np.array(points, float), _SMALLEST_LOSS)).T
    spread = float(((raw - raw.mean()) ** 2).sum())
    slope = float(((raw - raw.mean()) * (full - full.mean())).sum()) / spread if spread > 1e-6 else _DEFAULT_POWER
    power = min(max(slope, 0.2), 2.0)
    return Calibration(math.exp(float(full.mean() - power * raw.mean())), power)
