"""Intervals of latencies, speed-ups, accuracies and rankings."""

import numpy as np
import pytest

from cprune_rl.core.intervals import (
    accuracy_interval,
    median_interval,
    noise_floor,
    rank_correlation,
    speedup_interval,
)


def latencies(median: float, seed: int, n_rounds: int = 60) -> np.ndarray:
    return median * np.exp(np.random.default_rng(seed).normal(0.0, 0.05, n_rounds))


def test_an_interval_holds_its_value_and_narrows_with_more_rounds() -> None:
    few = median_interval(latencies(1e-3, 0, n_rounds=10))
    many = median_interval(latencies(1e-3, 0, n_rounds=1000))
    assert few.low <= few.value <= few.high
    assert many.high - many.low < few.high - few.low


def test_a_speedup_that_is_there_is_beyond_its_interval_and_one_that_is_not_is_inside() -> None:
    dense = latencies(2e-3, 1)
    assert speedup_interval(dense, latencies(1e-3, 2)).low > 1.8
    same = speedup_interval(dense, latencies(2e-3, 3))
    assert same.low < 1.0 < same.high
    assert 0 < noise_floor(dense, latencies(2e-3, 3)) < 0.1


def test_samples_that_are_all_equal_have_an_interval_without_width() -> None:
    interval = median_interval(np.full(8, 2.0))
    assert (interval.low, interval.value, interval.high) == (2.0, 2.0, 2.0)


def test_an_accuracy_of_every_image_has_a_lower_end_below_it() -> None:
    interval = accuracy_interval(np.ones(100, bool))
    assert interval.low < interval.value == 1.0
    assert accuracy_interval(np.ones(100, bool), confidence=0.5).low > interval.low


@pytest.mark.parametrize(("sign", "value"), [(1, 1.0), (-1, -1.0), (0, 0.0)])
def test_a_rank_correlation_is_of_the_order_alone(sign: int, value: float) -> None:
    first = np.arange(1.0, 13.0)
    assert rank_correlation(first, sign * first**3).value == pytest.approx(value)


def test_a_rank_correlation_says_how_sure_it_is() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(10.0)
    same = rank_correlation(x, x**3)
    assert same.low == pytest.approx(1.0)
    none = rank_correlation(rng.random(10), rng.random(10))
    assert none.low < none.value < none.high
    assert none.high - none.low > 0.5
