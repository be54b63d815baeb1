"""Compares the answers of a compiled network with those of the network that it was made from.

What counts is what an image changes. One large logit, or a bias that is the same for every image,
would hide a wrong layer from a tolerance that follows the largest value. Files for other runtimes
have a tolerance of their own (`models/export_check.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "OutputAgreement", "compare_answers"]

TOLERANCE = 1e-2
"""Largest difference that another order of the sums may make, as a share of the spread."""

# Shares of the largest answers and of the common spread that count as spread: where the images
# change an output by less, rounding changes it as much.
_ROUNDING = 1e-3
_SMALLEST = 1e-12  # a spread where all answers are zero


@dataclass(frozen=True, kw_only=True)
class OutputAgreement:
    """How well the answers of two networks agree.

    Attributes:
        relative_difference: the largest difference of an output, as a share of its spread over the
            images; infinite where an answer is no number.
        same_class: share of the images with the same most likely class. Where the first two classes
            are closer than the tolerance, either will do.
        n_images: that both answered.
    """

    relative_difference: float
    same_class: float
    n_images: int

    @property
    def holds(self) -> bool:
        """Whether the networks are the same, but for the order of sums."""
        return self.relative_difference <= TOLERANCE and self.same_class == 1.0

    def __str__(self) -> str:
        """Say it in words."""
        difference = "answers are no numbers"
        if math.isfinite(self.relative_difference):
            factor = f"{self.relative_difference:.2g}"
            difference = f"answers are up to {factor} times their spread apart"
        n_same = round(self.same_class * self.n_images)
        return f"{difference}, the same class for {n_same} of {self.n_images} images"


def compare_answers(expected: NDArray[np.floating], found: NDArray[np.floating]) -> OutputAgreement:
    """Compare answers to the same images.

    Args:
        expected: `(n_images, n_outputs)`, finite.
        found: likewise, of the network that is to be checked.

    Raises:
        ValueError: the shapes differ.
    """
    if expected.shape != found.shape:
        raise ValueError(f"answers have the shape {found.shape}, {expected.shape} was expected")
    expected = expected.astype(np.float64)
    found = found.astype(np.float64)
    spread = expected.std(axis=0)
    common = float(np.sqrt(np.mean(spread**2)))
    scale = spread + _ROUNDING * (np.abs(expected).max(axis=0) + common) + _SMALLEST
    if not np.isfinite(found).all():
        return OutputAgreement(relative_difference=math.inf, same_class=0.0, n_images=len(expected))
    differences = np.abs(found - expected) / scale
    rows = np.arange(len(expected))
    lost = expected.max(axis=1) - expected[rows, found.argmax(axis=1)]
    is_same = lost <= 2 * TOLERANCE * float(np.median(scale))
    return OutputAgreement(
        relative_difference=float(differences.max()),
        same_class=float(is_same.mean()),
        n_images=len(expected),
    )
