"""Maps from cheap losses to those of a full fine-tune."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_rl.accuracy.calibration import Calibration, CalibrationPoint, Calibrations
from cprune_rl.core.network import Plan


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.floats(-0.01, 0.4)), min_size=2, max_size=6),
    st.floats(0, 0.8),
    st.floats(0, 0.8),
)
def test_a_calibration_is_monotone(points: list[tuple[float, float]], a: float, b: float) -> None:
    calibration = Calibration.fit(points)
    assert calibration(min(a, b)) <= calibration(max(a, b)) + 1e-9


def test_a_calibration_knows_what_it_does_not_know() -> None:
    exact = Calibration.fit([(cheap, 0.03 * cheap**0.5) for cheap in (0.01, 0.05, 0.2)])
    rough = Calibration.fit([(0.01, 0.001), (0.05, 0.02), (0.2, 0.012)])
    assert exact.scale == pytest.approx(0.03)
    assert exact.power == pytest.approx(0.5)
    assert exact(0.1) == pytest.approx(0.03 * 0.1**0.5)
    assert exact(-0.01) == 0.0
    assert exact.residual == pytest.approx(0.0, abs=1e-9)
    assert rough.residual > 0.005


def test_plans_that_gain_by_the_fine_tune_lose_less_than_nothing() -> None:
    points = [(0.01, -0.03), (0.05, -0.025), (0.1, -0.015), (0.2, 0.01)]
    fitted = Calibration.fit(points)
    assert fitted.offset == -0.03
    assert fitted(0.0) == -0.03
    for cheap, full in points:
        assert fitted(cheap) == pytest.approx(full, abs=0.004)
    assert fitted.residual < 0.02
    losses = [(0.01, 0.001), (0.2, 0.02)]
    assert Calibration.fit(losses).offset == 0.0, "without a gain nothing is shifted"


def test_channels_and_schemes_are_calibrated_apart() -> None:
    narrow = [
        CalibrationPoint(Plan((width,)), cheap_loss=loss, full_loss=0.05 * loss**0.6)
        for width, loss in ((6, 0.01), (4, 0.3))
    ]
    sparse = [
        CalibrationPoint(
            Plan((8,), (("conv", f"block(4,{density})"),)), cheap_loss=loss, full_loss=0.1 * loss
        )
        for density, loss in ((0.5, 0.02), (0.25, 0.4))
    ]
    fitted = Calibrations.fit([*narrow, *sparse], dense=(8,))
    for point in (*narrow, *sparse):
        loss, _ = fitted.full_loss(point.plan, point.cheap_loss)
        assert loss == pytest.approx(point.full_loss, rel=1e-3)
    few = Calibrations.fit([*narrow, sparse[0]], dense=(8,))
    assert few.channels == fitted.channels
    every = [(point.cheap_loss, point.full_loss) for point in (*narrow, sparse[0])]
    assert few.schemes == Calibration.fit(every), "one plan alone fits any map"


def test_a_scheme_makes_no_narrow_plan_look_better() -> None:
    mild = Calibration(0.01, 1.0, 0.001)
    harsh = Calibration(0.05, 1.0, 0.002)
    both = Plan((4,), (("conv", "block(4,0.5)"),))
    for channels, schemes in ((mild, harsh), (harsh, mild)):
        calibrations = Calibrations(dense=(8,), channels=channels, schemes=schemes)
        assert calibrations.full_loss(both, 0.1) == (pytest.approx(0.005), 0.002)


def test_a_better_answer_of_the_oracle_is_never_rated_alike() -> None:
    calibration = Calibration.fit(
        [(0.005, 0.002), (0.0285, 0.006), (0.0538, 0.006), (0.3427, 0.0172)]
    )
    assert calibration(0.03) < calibration(0.04) < calibration(0.05)


def test_an_error_of_the_images_counts_as_much_as_the_map_lets_it() -> None:
    steep, flat = Calibration(scale=1.0), Calibration(scale=0.1, power=0.5)
    assert steep.slope(0.05) == 1.0
    assert flat.slope(0.04) == pytest.approx(0.25)
    step = 1e-6
    for loss in (0.01, 0.05):
        by_difference = (flat(loss + step) - flat(loss)) / step
        assert flat.slope(loss) == pytest.approx(by_difference, rel=1e-3)
    calibrations = Calibrations(dense=(8,), channels=Calibration(0.1, 0.5, residual=0.003))
    _, error = calibrations.full_loss(Plan((4,)), 0.04, 0.01)
    assert error == pytest.approx(math.hypot(0.003, 0.0025))
