"""Accuracy of plans inside a search: a short fine-tune, calibrated against long ones.

A short fine-tune ranks plans well and is biased: its value is mapped to what the full fine-tune would
give, by a monotone map fitted on a few plans that were fine-tuned in full. Answers are kept in the cost
cache. Called by searches through `contracts.AccuracyOracle`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.training import TrainSettings, evaluate, recalibrate, train
from cprune_rl.contracts import Accuracy, LossCurves, Spending
from cprune_rl.cost_cache import CostStore
from cprune_rl.table import Plan

__all__ = ["Calibration", "FinetuneOracle", "fit_loss_curves"]


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


class FinetuneOracle:
    """Prunes, recalibrates, fine-tunes for a few steps, evaluates on the search images.

    Args:
        pruner: plan -> smaller network with the dense network's weights.
        identity: names the dense network's weights and the ranking of channels.
        data: images.
        store: keeps every answer.
        settings: of the short fine-tune; the same batches for every plan.
        dense_accuracy: of the dense network on the search images.
        calibration: maps short to full; the default changes nothing.
        since: answers that the store got after this moment are counted as fresh (see `compiler.tuner.Tuner`).
    """

    def __init__(
        self,
        pruner: Callable[[Plan], nn.Module],
        identity: str,
        data: ImageData,
        store: CostStore,
        settings: TrainSettings,
        dense_accuracy: float,
        calibration: Calibration | None = None,
        since: float = math.inf,
    ) -> None:
        self._pruner, self._identity, self._data, self._store = pruner, identity, data, store
        self._settings, self._dense_accuracy, self._since = settings, dense_accuracy, since
        self._answers: dict[Plan, float] = {}
        self.calibration = calibration or Calibration()
        self.spending = Spending()

    def view(self, calibration: Calibration) -> FinetuneOracle:
        """The same oracle, calibrated, with counters of its own."""
        return FinetuneOracle(self._pruner, self._identity, self._data, self._store, self._settings, self._dense_accuracy, calibration, self._since)

    def accuracy(self, plan: Plan) -> Accuracy:
        """The calibrated accuracy of a plan (see `contracts.AccuracyOracle`)."""
        before = self.spending.train_s
        raw = self.raw(plan)
        value = self._dense_accuracy - self.calibration(self._dense_accuracy - raw)
        n = len(self._data.search)
        sampling = math.sqrt(max(raw * (1 - raw), 0.0) / n)
        return Accuracy(value, math.hypot(sampling, self.calibration.residual), n, self.spending.train_s - before)

    def raw(self, plan: Plan) -> float:
        """What the short fine-tune gives, uncalibrated."""
        if plan not in self._answers:
            self._answers[plan] = self.finetuned(plan, self._settings)
        return self._answers[plan]

    def finetuned(self, plan: Plan, settings: TrainSettings) -> float:
        """Accuracy on the search images after a fine-tune of any length, from the store where it has it."""
        text = json.dumps([self._identity, plan.widths, plan.schemes, self._data.fingerprint, asdict(settings)])
        key = hashlib.sha256(text.encode()).hexdigest()
        if (known := self._store.accuracy(key)) is not None:
            answer, created = known
            if created >= self._since:
                self._spend(answer.cost_s)
            return answer.value
        started = time.perf_counter()
        model = self._pruner(plan)
        recalibrate(model, self._data.train)
        train(model, self._data, settings)
        value = evaluate(model, self._data.search)
        cost = time.perf_counter() - started
        self._spend(cost)
        self._store.put_accuracy(key, Accuracy(value, 0.0, len(self._data.search), cost))
        return value

    def _spend(self, cost_s: float) -> None:
        self.spending.accuracy_evaluations += 1
        self.spending.train_s += cost_s


def fit_loss_curves(losses: NDArray[np.float64], kept: Sequence[float], total: float, uniform: float) -> LossCurves:
    """Fits `scale * (1 - kept) ** power` to each group's measured losses.

    Losses of single groups come from short fine-tunes; all scales are multiplied so that the curves add up
    to the calibrated loss of a uniform plan.

    Args:
        losses: `(n_groups, 2)` loss in accuracy with only that group pruned to each of `kept`.
        kept: the two kept ratios, descending, in (0, 1).
        total: calibrated loss of the uniform plan.
        uniform: kept ratio of the uniform plan, in (0, 1).
    """
    measured = np.maximum(losses, _SMALLEST_LOSS)  # a group without measurable loss still costs something
    removed = 1.0 - np.asarray(kept, float)
    power = np.clip(np.log(measured[:, 1] / measured[:, 0]) / math.log(removed[1] / removed[0]), 1.0, 3.0)
    scale = measured[:, 1] / removed[1] ** power
    predicted = float((scale * (1.0 - uniform) ** power).sum())
    return LossCurves(scale * max(total, _SMALLEST_LOSS) / predicted, power)
