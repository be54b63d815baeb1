"""The final gate: which networks pass, and how often luck lets one pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cprune_rl.accuracy.final_gate import (
    GateCriterion,
    difference_interval,
    judge,
    least_provable_loss,
    undetectable_loss,
)
from cprune_rl.core.intervals import Counts, accuracy_interval

DENSE_ACCURACY = 0.97
ALL_CORRECT = np.ones(4000, bool)


def correct(n_images: int, accuracy: float) -> NDArray[np.bool_]:
    """Predictions of a network that is exactly so accurate; the errors come first."""
    return np.arange(n_images) >= round(n_images * (1 - accuracy))


def test_the_gate_asks_for_more_than_the_point_estimate() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random(4000) < 0.98
    pruned = dense.copy()
    pruned[:38] = False
    verdict = judge(dense, pruned, GateCriterion(floor=float(dense.mean()) - 0.01))
    assert verdict.accuracy > verdict.floor
    assert not verdict.passed, "within sampling error of the floor is not above it"


def test_the_dense_network_loses_nothing_to_itself() -> None:
    dense = correct(300, 0.9)
    itself = judge(dense, dense, GateCriterion(floor=0.9), is_dense=True)
    assert itself.passed
    assert itself.lower_bound == pytest.approx(0.9)
    twin = judge(dense, dense, GateCriterion(floor=0.9))
    assert not twin.passed, "another network with the same answers may differ on other images"


def test_few_images_cannot_show_that_nothing_is_lost() -> None:
    few = np.ones(200, bool)
    assert not judge(few, few, GateCriterion(floor=0.99)).passed, (
        "a network that loses a point answers 200 images as the dense one does with 13 %"
    )
    assert judge(ALL_CORRECT, ALL_CORRECT, GateCriterion(floor=0.99)).passed
    assert undetectable_loss(200, 0.05) == pytest.approx(0.0149, abs=1e-4)
    assert (1 - undetectable_loss(200, 0.05, 4)) ** 200 == pytest.approx(0.05 / 4)


def test_an_absolute_floor_is_held_by_the_networks_own_accuracy() -> None:
    pruned = correct(4000, 0.95)
    criterion = GateCriterion(floor=0.94, is_absolute=True)
    verdict = judge(ALL_CORRECT, pruned, criterion)
    assert verdict.lower_bound == accuracy_interval(pruned, 0.9).low, "one-sided, at 5 %"
    assert verdict.passed
    assert judge(pruned, pruned, criterion, is_dense=True) == verdict, (
        "the dense network, too, has to show an accuracy that does not follow from its own"
    )


def test_a_paired_bound_is_tighter_than_that_of_the_networks_own_accuracy() -> None:
    dense = correct(4000, 0.95)
    pruned = correct(4000, 0.945)
    paired = judge(dense, pruned, GateCriterion(floor=0.9))
    alone = judge(dense, pruned, GateCriterion(floor=0.9, is_absolute=True))
    assert alone.lower_bound < paired.lower_bound < pruned.mean()


def test_a_floor_that_is_met_exactly_holds() -> None:
    pruned = correct(4000, 0.95)
    bound = judge(ALL_CORRECT, pruned, GateCriterion(floor=0.0)).lower_bound
    assert judge(ALL_CORRECT, pruned, GateCriterion(floor=bound)).passed
    assert not judge(ALL_CORRECT, pruned, GateCriterion(floor=bound + 1e-12)).passed


def test_asking_the_gate_more_often_makes_it_stricter() -> None:
    pruned = correct(4000, 0.995)
    bounds = [
        judge(ALL_CORRECT, pruned, GateCriterion(floor=0.9, n_looks=n_looks)).lower_bound
        for n_looks in (1, 3, 10)
    ]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) == 3


def test_a_result_file_keeps_all_of_a_verdict() -> None:
    verdict = judge(ALL_CORRECT, ALL_CORRECT, GateCriterion(floor=0.9, n_looks=2, risk=0.1))
    assert vars(verdict) == {
        "accuracy": 1.0,
        "lower_bound": 1.0 - undetectable_loss(4000, 0.1, 2),
        "floor": 0.9,
        "n_looks": 2,
        "risk": 0.1,
        "passed": True,
    }


@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize(
    ("confidence", "n_looks", "n_images"),
    [(0.95, 1, 4000), (0.95, 4, 4000), (0.8, 1, 4000), (0.95, 1, 300), (0.95, 4, 300)],
)
def test_the_gate_passes_a_network_at_the_floor_as_often_as_it_says(
    confidence: float, n_looks: int, n_images: int, is_absolute: bool
) -> None:
    rng = np.random.default_rng(0)
    n_gates = 1000
    # accuracy of the pruned network on images without end
    truth = DENSE_ACCURACY * 0.96 + 0.04 * 0.5
    n_passed = 0
    for _ in range(n_gates):
        dense_looks = rng.random((n_looks, n_images)) < DENSE_ACCURACY
        is_changed = rng.random((n_looks, n_images)) < 0.04
        guesses = rng.random((n_looks, n_images)) < 0.5
        pruned_looks = np.where(is_changed, guesses, dense_looks)
        for dense, pruned in zip(dense_looks, pruned_looks, strict=True):
            floor = truth if is_absolute else float(dense.mean()) + truth - DENSE_ACCURACY
            criterion = GateCriterion(
                floor=floor + 1e-9, is_absolute=is_absolute, n_looks=n_looks, risk=1 - confidence
            )
            if judge(dense, pruned, criterion).passed:
                n_passed += 1
                break
    expected = (1 - confidence) * n_gates
    spread = 3 * np.sqrt(n_gates * confidence * (1 - confidence))
    assert n_passed <= expected + spread, "no oftener than stated"
    assert n_images < 4000 or n_passed >= 0.4 * expected, "and not by refusing everything"


def test_the_interval_of_a_paired_difference_is_newcombes() -> None:
    first = np.repeat([True, True, False], [36, 12, 2])
    second = np.repeat([True, False, True], [36, 12, 2])
    interval = difference_interval(first, second)
    assert interval.value == pytest.approx(0.2)
    assert (interval.low, interval.high) == pytest.approx((0.0569, 0.3404), abs=1e-4), (
        "as published for 36, 12, 2 and 0 of 50 pairs"
    )


def test_what_a_network_gained_over_the_dense_one_has_an_interval_around_it() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random(4000) < 0.95
    pruned = dense ^ (rng.random(4000) < 0.02)
    interval = difference_interval(pruned, dense)
    assert interval.value == pytest.approx(float(pruned.mean() - dense.mean()))
    assert interval.low < interval.value < interval.high
    turned = difference_interval(dense, pruned)
    assert (turned.low, turned.high) == pytest.approx((-interval.high, -interval.low)), (
        "the other way round it is the same"
    )
    same = difference_interval(dense, dense)
    assert same.low <= 0.0 == same.value <= same.high


def test_counts_alone_have_newcombes_interval_of_independent_samples() -> None:
    # example (a) of Newcombe, Statistics in Medicine 17, 1998, pages 873 to 890
    interval = difference_interval(Counts(56, 70), Counts(48, 80))
    assert (interval.low, interval.high) == (
        pytest.approx(0.0524, abs=1e-4),
        pytest.approx(0.3339, abs=1e-4),
    )
    turned = difference_interval(Counts(48, 80), Counts(56, 70))
    assert (turned.low, turned.high) == (-interval.high, -interval.low)


def test_the_gate_pairs_nothing_where_only_counts_are_known() -> None:
    dense = np.arange(2000) < 1800
    pruned = np.arange(2000) < 1796
    criterion = GateCriterion(floor=0.89)
    paired = judge(dense, pruned, criterion)
    by_counts = judge(Counts(1800, 2000), Counts(1796, 2000), criterion)
    assert paired.passed
    assert not by_counts.passed
    assert by_counts.accuracy == paired.accuracy
    assert by_counts.lower_bound < paired.lower_bound - 0.01
    mixed = judge(dense, Counts(1796, 2000), criterion)
    assert mixed.lower_bound == by_counts.lower_bound
    same = judge(Counts(1800, 2000), Counts(1800, 2000), criterion)
    least = least_provable_loss(Counts(1800, 2000), 0.05)
    assert same.lower_bound == pytest.approx(0.9 - least), "nobody knows that they are the same"
    assert least > least_provable_loss(dense, 0.05) == undetectable_loss(2000, 0.05)
    itself = judge(Counts(1800, 2000), Counts(1800, 2000), criterion, is_dense=True)
    assert itself.lower_bound == 0.9
    absolute = GateCriterion(floor=0.89, is_absolute=True)
    assert judge(Counts(1800, 2000), Counts(1796, 2000), absolute) == judge(dense, pruned, absolute)


def test_by_counts_a_network_below_the_floor_hardly_ever_passes() -> None:
    rng = np.random.default_rng(0)
    n_images = 1000
    criterion = GateCriterion(floor=0.85)  # relative: five points below the dense network
    passed = 0
    for _ in range(2000):
        dense = Counts(int(rng.binomial(n_images, 0.9)), n_images)
        pruned = Counts(int(rng.binomial(n_images, 0.85)), n_images)
        floor = dense.mean() - 0.05
        passed += judge(dense, pruned, replace(criterion, floor=floor)).passed
    assert 0.02 < passed / 2000 < 0.065
