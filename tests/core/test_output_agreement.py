"""How far the answers of two networks may be apart, and what hides nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_rl.core.output_agreement import TOLERANCE, compare_answers

N_IMAGES = 16


def answers(seed: int = 0) -> np.ndarray:
    """Logits of ten classes."""
    return np.random.default_rng(seed).standard_normal((N_IMAGES, 10))


def test_the_same_answers_agree() -> None:
    agreement = compare_answers(answers(), answers().astype(np.float32))
    assert agreement.holds
    assert agreement.same_class == 1.0
    assert agreement.n_images == N_IMAGES
    assert agreement.relative_difference < 1e-6


@settings(max_examples=50)
@given(st.integers(0, 9), st.integers(0, N_IMAGES - 1), st.sampled_from([0.05, -0.05, 1.0]))
def test_a_difference_of_one_output_of_one_image_is_seen(
    output: int, image: int, difference: float
) -> None:
    found = answers()
    found[image, output] += difference
    agreement = compare_answers(answers(), found)
    assert not agreement.holds
    assert 0.5 < agreement.relative_difference / abs(difference) < 2  # the spread is about 1


@pytest.mark.parametrize("offset", [1e3, -1e3])
def test_a_large_output_that_no_image_changes_hides_nothing(offset: float) -> None:
    expected = answers()
    expected[:, 3] = offset
    found = expected.copy()
    found[5, 7] += 0.1
    assert not compare_answers(expected, found).holds
    assert compare_answers(expected, expected * (1 + 1e-6)).holds


def test_an_output_that_varies_a_thousand_times_more_hides_nothing() -> None:
    expected = answers()
    expected[:, 0] *= 1000
    found = expected.copy()
    found[:, 1] *= 1.2
    assert not compare_answers(expected, found).holds


def test_a_confident_softmax_is_compared_by_what_the_images_change() -> None:
    logits = 60 * answers()
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    assert compare_answers(expected, expected * (1 + 1e-5)).holds
    found = expected.copy()
    found[:, 2] = found[:, 4]
    assert not compare_answers(expected, found).holds


def test_another_class_is_a_difference_where_the_two_were_apart() -> None:
    expected = np.zeros((4, 3))
    expected[:, 0] = [1000.0, -1000.0, 900.0, -900.0]  # so ten more or less of it is in tolerance
    expected[:, 1:] = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.5], [0.5, 1.0]]
    found = expected.copy()
    found[1] = [9.0, 0.0, 1.0]
    expected[1] = [0.0, 0.0, 1.0]
    agreement = compare_answers(expected, found)
    assert agreement.relative_difference < 2 * TOLERANCE
    assert agreement.same_class == 0.75
    assert not agreement.holds


def test_two_classes_that_tie_may_change_places() -> None:
    expected = answers()
    expected[0, :2] = [9.0, 9.0 - 1e-6]
    found = expected.copy()
    found[0, :2] = [9.0 - 1e-6, 9.0]
    assert compare_answers(expected, found).holds


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_agrees_with_nothing(value: float) -> None:
    found = answers()
    found[1, 1] = value
    agreement = compare_answers(answers(), found)
    assert not agreement.holds
    assert "no numbers" in str(agreement)


def test_answers_that_no_image_changes_may_be_rounded() -> None:
    expected = np.tile(answers()[:1], (N_IMAGES, 1))
    assert compare_answers(expected, expected * (1 + 1e-6)).holds
    assert not compare_answers(expected, expected * 1.01).holds
    assert compare_answers(np.zeros((2, 3)), np.zeros((2, 3))).holds


def test_answers_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        compare_answers(answers(), answers()[:, :9])
