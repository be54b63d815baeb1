"""Schemes as text, and what they keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprune_rl.core.scheme import KINDS, MAX_PATTERN_DENSITY, Scheme
from cprune_rl.errors import PlanError


@given(st.sampled_from(KINDS), st.integers(1, 512), st.floats(0.001, MAX_PATTERN_DENSITY))
def test_a_scheme_survives_its_text(kind: str, block: int, density: float) -> None:
    text = str(Scheme(kind, block, density))
    assert str(Scheme.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "dense", "block(8)", "block(0,0.5)", "block(8,1.5)", "block(8,0.0)", "rows(8,0.5)"]
)
def test_a_text_that_is_no_scheme_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="is no scheme"):
        Scheme.parse(text)


def test_a_pattern_keeps_at_most_four_of_nine_entries() -> None:
    with pytest.raises(PlanError, match="4/9"):
        Scheme("pattern", 4, 0.5)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("block(8,0.25)", 36),
        ("block(8,0.001)", 1),
        ("kernel(8,0.25)", 36),
        ("kernel(8,0.001)", 9),
        ("pattern(8,0.25)", 36),
        ("pattern(8,0.001)", 4),
        ("pattern(8,0.4444)", 64),
    ],
)
def test_a_block_keeps_whole_kernels_and_patterns_and_one_at_least(text: str, kept: int) -> None:
    assert Scheme.parse(text).n_kept(16 * 9) == kept
