"""Values of the protocols."""

import math

import pytest

from cprune_rl.core.protocols import Measurement


def test_a_measurement_is_judged_by_its_median() -> None:
    measurement = Measurement((3.0, 1.0, 2.0))
    assert measurement.latency_s == 2.0
    assert measurement.spread == pytest.approx(0.5)


def test_one_sample_has_no_spread_and_a_failure_takes_infinitely_long() -> None:
    assert Measurement((1.0,)).spread == 0.0
    failed = Measurement(error="crashed")
    assert failed.latency_s == math.inf
    assert failed.spread == 0.0
