"""How a run's oracle is calibrated: on plans that lose as much as the floors allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from torch import nn

from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import Scheme
from cprune_rl.pipeline.calibration_stage import OracleCalibration, calibrate
from cprune_rl.pipeline.config import load_config
from cprune_rl.pipeline.dense_networks import DenseNetworks
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run_settings import calibration_settings
from cprune_rl.testing import toy_network

DENSE_ACCURACY = 0.9


class KnownLosses:
    """An oracle and a full fine-tune whose losses depend on the mean kept share alone."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent
        self.asked: list[Plan] = []

    def lost(self, plan: Plan) -> float:
        share = float(np.mean(np.array(plan.widths) / toy_network().dense.widths))
        densities = [Scheme.parse(text).density for _, text in plan.schemes]
        return 0.05 * (1 - share * min(densities, default=1.0)) ** self.exponent

    def losses(self, plans: Sequence[Plan], on_plan: Callable[[int], None]) -> list[float]:
        self.asked += plans
        return [2 * self.lost(plan) for plan in plans]

    def evaluate_all(
        self, plans: Sequence[Plan], evaluation: object, on_plan: Callable[[int], None]
    ) -> list[float]:
        return [DENSE_ACCURACY - self.lost(plan) for plan in plans]


def calibrated(
    exponent: float, given_accuracy: float = DENSE_ACCURACY, **options: Any
) -> tuple[OracleCalibration, KnownLosses]:
    oracle = KnownLosses(exponent)
    trained_model = SimpleNamespace(finetuned=lambda settings, is_gradual: None)
    config = load_config(None, {"effort": "light", **options})
    dense = DenseNetworks(
        given=nn.Identity(),
        finetuned=nn.Identity(),
        given_accuracy=given_accuracy,
        finetuned_accuracy=DENSE_ACCURACY,
        is_from_given=config.floor_from == "given",
        train_s=0.0,
    )
    calibration = calibrate(
        calibration_settings(config),
        cast("Any", trained_model),
        dense,
        cast("Any", oracle),
        toy_network(),
        ProgressLog(),
    )
    assert calibration.maps.channels(0.02) == pytest.approx(0.01, rel=0.05), (
        "twice as much was seen as lost"
    )
    return calibration, oracle


@pytest.mark.parametrize(("floor", "n_points"), [(-0.001, 2), (-0.015, 3), (-0.5, 4)])
def test_it_goes_on_until_a_plan_loses_more_than_the_floor_allows(
    floor: float, n_points: int
) -> None:
    calibration, oracle = calibrated(2.0, floor=floor)
    points = calibration.points
    assert len(points) == n_points
    assert [p.plan for p in points] == oracle.asked
    assert [p.full_loss for p in points] == sorted(p.full_loss for p in points), (
        "each is narrower than the one before"
    )


def test_losses_are_counted_from_the_better_dense_network_whatever_the_floor_is() -> None:
    better, _ = calibrated(2.0, floor=-0.001, given_accuracy=0.87)
    given, _ = calibrated(2.0, floor=-0.001, given_accuracy=0.87, floor_from="given")
    assert len(better.points) == 2
    assert len(given.points) == 4, "three points more may go, so plans are tried further down"
    assert given.points[:2] == better.points


def test_the_lowest_floor_of_a_front_counts_and_schemes_are_judged_by_themselves() -> None:
    front, _ = calibrated(2.0, floor="-0.001,-0.5")
    assert len(front.points) == 4
    both, _ = calibrated(2.0, floor=-0.5, change="schemes")
    assert [bool(p.plan.schemes) for p in both.points] == [False] * 4 + [True] * 4
    sparse = [p.plan.schemes for p in both.points[4:]]
    densities = [min(Scheme.parse(text).density for _, text in schemes) for schemes in sparse]
    assert densities == sorted(densities, reverse=True)


def test_the_loss_model_knows_layers_only_where_schemes_prune_them() -> None:
    channels, _ = calibrated(2.0, floor=-0.015)
    assert len(channels.loss_model.layer_scale) == 0
    both, _ = calibrated(2.0, floor=-0.015, change="schemes")
    assert len(both.loss_model.layer_scale) == len(toy_network().scheme_layers)
