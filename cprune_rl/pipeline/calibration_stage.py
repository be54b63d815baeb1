"""Calibrates a run's accuracy oracle on a few plans that are fine-tuned in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cprune_rl.accuracy.calibration import CalibrationPoint, Calibrations
from cprune_rl.accuracy.oracle import PlanOracle
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.diverse_plans import diverse_plans
from cprune_rl.core.floor import resolve_floor
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.scheme import Scheme
from cprune_rl.envs.actions.scheme_actions import prunable_layers
from cprune_rl.pipeline.dense_networks import DenseNetworks
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_model import TrainedModel

__all__ = ["CalibrationSettings", "OracleCalibration", "calibrate"]

_BLOCK_SIZE = 8  # channels, of plans with schemes
# The share of the next plan over that of the last one, where no plan lost as much as the floor
# allows.
_NEXT_SHARE = 0.75
_MAX_FURTHER_PLANS = 2

PlansAt = Callable[[Sequence[float]], list[Plan]]


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Which plans an oracle is calibrated on.

    Attributes:
        kept_ratios: of uniform plans.
        densities: of plans with schemes, in turns by kernels and by blocks; empty where no layer is
            pruned by schemes.
        floors: as asked for. Plans are tried until one loses more than the lowest allows.
        full: the full fine-tune.
    """

    kept_ratios: tuple[float, ...]
    densities: tuple[float, ...]
    floors: tuple[float, ...]
    full: TrainSettings


@dataclass(frozen=True, kw_only=True)
class OracleCalibration:
    """What a few full fine-tunes say of an oracle and of a network.

    Attributes:
        points: plans that were fine-tuned in full.
        maps: from the oracle's losses to those after the full fine-tune.
        loss_model: predicts the loss of each group, and of each layer.
    """

    points: tuple[CalibrationPoint, ...]
    maps: Calibrations
    loss_model: LossModel


def calibrate(
    settings: CalibrationSettings,
    trained_model: TrainedModel,
    dense: DenseNetworks,
    oracle: PlanOracle,
    network: Network,
    progress: ProgressLog,
) -> OracleCalibration:
    """Fine-tune a few plans in full, and fit the maps and the loss model to them.

    Losses are counted from the better dense network. A plan that ends above it has lost less than
    nothing.
    """

    def narrow_plans(ratios: Sequence[float]) -> list[Plan]:
        return diverse_plans(network, ratios, settings.full.seed)

    def sparse_plans(densities: Sequence[float]) -> list[Plan]:
        return _sparse_plans(network, densities)

    finetunes = _FullFinetunes(settings, trained_model, dense, oracle, progress)
    narrow = finetunes.points("channels", narrow_plans, settings.kept_ratios)
    sparse = finetunes.points("schemes", sparse_plans, settings.densities)
    dense_widths = network.dense.widths
    kept = np.array([point.plan.widths for point in narrow]) / np.array(dense_widths)
    loss_model = LossModel.fit_uniform(kept, np.array([point.full_loss for point in narrow]))
    if sparse:
        losses = np.array([point.full_loss for point in sparse])
        plans = [point.plan for point in sparse]
        loss_model = loss_model.with_fitted_layers(network, plans, losses)
    points = (*narrow, *sparse)
    return OracleCalibration(
        points=points, maps=Calibrations.fit(points, dense_widths), loss_model=loss_model
    )


class _FullFinetunes:
    """Fine-tunes plans of one kind in full."""

    def __init__(
        self,
        settings: CalibrationSettings,
        trained_model: TrainedModel,
        dense: DenseNetworks,
        oracle: PlanOracle,
        progress: ProgressLog,
    ) -> None:
        self._settings = settings
        self._trained_model = trained_model
        self._oracle = oracle
        self._progress = progress
        self._dense_accuracy = dense.accuracy
        floors = [
            resolve_floor(floor, dense.reference_accuracy, may_exceed=True)
            for floor in settings.floors
        ]
        self._slack = dense.accuracy - min(floors)

    def points(
        self, what: str, plans_at: PlansAt, shares: Sequence[float]
    ) -> list[CalibrationPoint]:
        """Fine-tune plans until one loses more than the lowest floor allows.

        Between its points a calibration is an interpolation, beyond them it is a guess.

        Args:
            what: is pruned: channels or schemes.
            plans_at: gives plans that keep some shares.
            shares: to begin with, in (0, 1].
        """
        tried = list(shares)
        points = self._evaluate(what, plans_at(tried))
        most = len(shares) + _MAX_FURTHER_PLANS
        while points and max(p.full_loss for p in points) <= self._slack and len(tried) < most:
            tried.append(min(tried) * _NEXT_SHARE)
            known = {point.plan for point in points}
            points += self._evaluate(what, [plan for plan in plans_at(tried) if plan not in known])
        return points

    def _evaluate(self, what: str, plans: Sequence[Plan]) -> list[CalibrationPoint]:
        if not plans:
            return []
        is_gradual = what == "schemes"
        full = self._trained_model.finetuned(self._settings.full, is_gradual=is_gradual)
        n_plans = len(plans)
        title = f"Calibrating the accuracy oracle on {what}"
        with self._progress.track(title, 2 * n_plans) as advance:
            cheap = self._oracle.losses(plans, advance)
            accuracies = self._oracle.evaluate_all(
                plans, full, lambda done: advance(n_plans + done)
            )
        return [
            CalibrationPoint(plan, cheap_loss, self._dense_accuracy - accuracy)
            for plan, cheap_loss, accuracy in zip(plans, cheap, accuracies, strict=True)
        ]


def _sparse_plans(network: Network, densities: Sequence[float]) -> list[Plan]:
    """Prune all layers by schemes: every other plan by kernels where a layer has 3x3 ones."""
    layers = prunable_layers(network, "block")
    with_kernels = set(prunable_layers(network, "kernel"))
    if not layers:
        return []
    plans = []
    for at, density in enumerate(densities):
        schemes = []
        for layer in layers:
            kind = "kernel" if layer in with_kernels and at % 2 == 0 else "block"
            schemes.append((layer, str(Scheme(kind, _BLOCK_SIZE, density))))
        plans.append(Plan(network.dense.widths, tuple(schemes)))
    return plans
