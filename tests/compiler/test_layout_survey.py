"""Which variants are worth trying at a shape."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprune_rl.compiler.layouts.survey import VariantSurvey

DENSE = (64, 64)


@pytest.fixture
def survey() -> VariantSurvey:
    """Three variants on the dense network: the first three times slower than the last, the second
    failed.
    """
    survey = VariantSurvey((0, 1, 2))
    survey.record(DENSE, {0: 3e-6, 1: math.inf, 2: 1e-6})
    return survey


def test_before_anything_is_known_every_variant_is_worthwhile() -> None:
    assert VariantSurvey((0, 2)).candidates(DENSE, 1.4) == (0, 2)


def test_a_slow_variant_is_left_out_at_the_same_channels_and_asked_again_where_they_differ_as_much(
    survey: VariantSurvey,
) -> None:
    assert survey.candidates(DENSE, 1.4) == (2,)
    assert survey.candidates((64, 48), 1.4) == (2,)
    assert survey.candidates((32, 48), 1.4) == (
        0,
        2,
    )  # 2.7 times fewer channels, and 1.4 of tolerance


def test_a_variant_none_of_whose_programs_ran_is_not_asked_again(survey: VariantSurvey) -> None:
    assert 1 not in survey.candidates((1, 1), 1.4)


def test_what_was_seen_nearby_counts_more_than_the_dense_network(survey: VariantSurvey) -> None:
    survey.record((32, 32), {0: 2e-6, 2: 1e-6})
    assert survey.candidates((32, 32), 1.4) == (2,)
    assert survey.candidates((16, 32), 1.4) == (0, 2)
    survey.record((8, 8), {0: 1e-7, 2: 5e-7})
    assert survey.candidates((8, 8), 1.4) == (0,)
    assert survey.candidates((30, 32), 1.4) == (2,)


def test_a_variant_that_was_left_out_nearby_is_judged_by_where_it_was_tried(
    survey: VariantSurvey,
) -> None:
    survey.record((48, 64), {2: 1e-6})
    assert survey.candidates((32, 48), 1.4) == (0, 2)


def test_where_every_variant_that_was_tried_failed_the_others_are_worthwhile(
    survey: VariantSurvey,
) -> None:
    survey.record((32, 64), {2: math.inf})
    assert survey.candidates((32, 64), 1.4) == (0, 1, 2)


def test_a_copy_goes_on_for_itself(survey: VariantSurvey) -> None:
    copied = survey.copy()
    copied.record(DENSE, {0: 1e-6, 1: math.inf, 2: 1e-6})
    assert survey.candidates(DENSE, 1.4) == (2,)
    assert copied.candidates(DENSE, 1.4) == (0, 2)


@given(st.tuples(st.integers(1, 64), st.integers(1, 64)), st.floats(1, 4))
def test_the_fastest_variant_of_the_nearest_shape_is_always_worthwhile(
    channels: tuple[int, int], tolerance: float
) -> None:
    survey = VariantSurvey((0, 1, 2))
    survey.record(DENSE, {0: 3e-6, 1: 2e-6, 2: 1e-6})
    assert 2 in survey.candidates(channels, tolerance)
