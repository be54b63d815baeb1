"""The final gate decides whether a finished network holds the floor, on images nothing else uses.

Where the floor is relative, the dense and the pruned network see the same images. Most of the
sampling error cancels: what counts is the images they disagree on. Where only the number of right
images is known, nothing cancels, and the bound is wider. An absolute floor says nothing
of the dense network, so the bound is that of the pruned network's own accuracy (Wilson's). A search
that backs off asks the gate several times, and each look gives luck a chance. The risk is divided
by the number of checks (Bonferroni).

The risk of a run is 1 less its option `confidence` (`pipeline/config.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cprune_rl.core.intervals import Correct, Counts, Interval, accuracy_interval

__all__ = [
    "GateCriterion",
    "Verdict",
    "difference_interval",
    "judge",
    "least_provable_loss",
    "undetectable_loss",
]


@dataclass(frozen=True, kw_only=True)
class GateCriterion:
    """Says what a network must show.

    Attributes:
        floor: accuracy that must hold, in [0, 1].
        is_absolute: whether the floor is an accuracy by itself; else it follows from the dense
            network's accuracy on the same images.
        n_looks: how often at most the search may ask.
        risk: probability that a network below the floor passes in any check, in (0, 1).
    """

    floor: float
    is_absolute: bool = False
    n_looks: int = 1
    risk: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Records the gate's decision.

    Attributes:
        accuracy: of the network on the gate images, in [0, 1].
        lower_bound: of its accuracy, one-sided; where the floor is relative, with the sampling
            error of the difference to the dense network alone.
        floor: accuracy that must hold.
        n_looks: how often at most the search may ask; the bound allows for it.
        risk: probability that a network below the floor passes in any check.
        passed: whether the lower bound is at the floor or above.
    """

    accuracy: float
    lower_bound: float
    floor: float
    n_looks: int
    risk: float
    passed: bool


def judge(
    dense_correct: Correct,
    pruned_correct: Correct,
    criterion: GateCriterion,
    is_dense: bool = False,
) -> Verdict:
    """Decides with a one-sided bound of the pruned network's accuracy.

    Args:
        dense_correct: which of the images the dense network classifies correctly, or how many.
        pruned_correct: the same of the pruned network.
        criterion: what it must show.
        is_dense: whether the pruned network is the dense one itself, which loses nothing to it.
    """
    risk = criterion.risk
    n_looks = criterion.n_looks
    # each end of the interval alone is wrong with the risk of one look
    confidence = 1 - 2 * risk / n_looks
    dense_accuracy = float(dense_correct.mean())
    if criterion.is_absolute:
        bound = accuracy_interval(pruned_correct, confidence).low
    elif is_dense:
        bound = dense_accuracy
    elif _are_equal(pruned_correct, dense_correct):
        bound = dense_accuracy - undetectable_loss(len(pruned_correct), risk, n_looks)
    else:
        bound = dense_accuracy + _difference_bound(pruned_correct, dense_correct, confidence)
    return Verdict(
        accuracy=float(pruned_correct.mean()),
        lower_bound=bound,
        floor=criterion.floor,
        n_looks=n_looks,
        risk=risk,
        passed=bound >= criterion.floor,
    )


def difference_interval(
    pruned_correct: Correct, dense_correct: Correct, confidence: float = 0.95
) -> Interval:
    """Gives the difference in accuracy to the dense network on the same images, with an interval.

    Args:
        pruned_correct: which of the images the network classifies correctly, or how many.
        dense_correct: the same of the dense network.
        confidence: of the interval.
    """
    return Interval(
        float(pruned_correct.mean()) - float(dense_correct.mean()),
        _difference_bound(pruned_correct, dense_correct, confidence),
        -_difference_bound(dense_correct, pruned_correct, confidence),
    )


def undetectable_loss(n_images: int, risk: float, n_looks: int = 1) -> float:
    """Gives the loss of accuracy that so many images can miss.

    A network that loses more than this would differ from the dense one on at least one of the
    images, with a probability of 1 - risk.

    Args:
        n_images: that it was judged on.
        risk: in all looks together, in (0, 1).
        n_looks: how often the gate may be asked.
    """
    return float(1 - (risk / n_looks) ** (1 / n_images))


def least_provable_loss(dense_correct: Correct, risk: float) -> float:
    """Gives the loss that a network may still have which is as good as the dense one.

    No floor that is closer can be shown to hold.

    Args:
        dense_correct: which of the images the dense network classifies correctly, or how many.
        risk: of the gate, in (0, 1).
    """
    if isinstance(dense_correct, Counts):
        return -_difference_bound(dense_correct, dense_correct, 1 - 2 * risk)
    return undetectable_loss(len(dense_correct), risk)


def _are_equal(first: Correct, second: Correct) -> bool:
    """Whether two networks are right on the same images; not where nobody says on which."""
    if isinstance(first, Counts) or isinstance(second, Counts):
        return False
    return bool((first == second).all())


def _correlation(first: Correct, second: Correct) -> float:
    """Gives the correlation of two networks over the images; 0 where nobody says on which."""
    if isinstance(first, Counts) or isinstance(second, Counts):
        return 0.0
    p = float(first.mean())
    q = float(second.mean())
    spread = math.sqrt(p * (1 - p) * q * (1 - q))
    return (float((first & second).mean()) - p * q) / spread if spread > 0 else 0.0


def _difference_bound(first: Correct, second: Correct, confidence: float) -> float:
    """Bounds the difference of two proportions, first less second, from below.

    Newcombe, Statistics in Medicine 17, 1998, method 10 for paired proportions. Without a
    correlation it is his method 10 for independent ones. The bound by the standard deviation of the
    differences would let networks pass half as often again as it should: few images differ, and
    most of them in one direction.
    """
    p = float(first.mean())
    q = float(second.mean())
    below = p - accuracy_interval(first, confidence).low
    above = accuracy_interval(second, confidence).high - q
    correlation = _correlation(first, second)
    square = below**2 - 2 * correlation * below * above + above**2
    return p - q - math.sqrt(max(square, 0.0))
