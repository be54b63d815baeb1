"""The final gate: does a finished network hold the floor, judged on images nothing else uses?

Where the floor is relative, the same images are shown to the dense and the pruned network, so most
of the sampling
error cancels: what counts is the images they disagree on. An absolute floor says nothing of the
dense network, so the
bound is that of the pruned network's own accuracy (Wilson's). A search that backs off asks the gate
several times, and each
time luck has a chance: the risk is shared out between the looks (Bonferroni).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.intervals import Interval, accuracy_interval

__all__ = ["Verdict", "difference_interval", "judge", "undetectable_loss"]


@dataclass(frozen=True)
class Verdict:
    """The gate's decision.

    Attributes:
        accuracy: of the network on the gate images, in [0, 1].
        lower_bound: of its accuracy, one-sided; where the floor is relative, with the sampling
            error of the difference to the dense network alone.
        floor: accuracy that must hold.
        n_looks: how often the search might have asked; the bound allows for it.
        risk: that a network below the floor passes in any of the looks.
        passed: whether the lower bound is at the floor or above.
    """

    accuracy: float
    lower_bound: float
    floor: float
    n_looks: int
    risk: float
    passed: bool


def judge(
    dense_correct: NDArray[np.bool_],
    pruned_correct: NDArray[np.bool_],
    floor: float,
    n_looks: int = 1,
    risk: float = 0.05,
    is_absolute: bool = False,
    is_dense: bool = False,
) -> Verdict:
    """Decides with a one-sided bound:

    paired with the dense network where the floor follows from its accuracy, else of the accuracy
    itself.

    Args:
        dense_correct: `(n_images,)` whether the dense network is right.
        pruned_correct: `(n_images,)` whether the pruned network is right on the same images.
        floor: accuracy that must hold, in [0, 1].
        n_looks: how often at most this search may ask.
        risk: that a network below the floor passes in any of the looks, in (0, 1).
        is_absolute: whether the floor is an accuracy by itself, not so much below the dense
            network's on these images.
        is_dense: whether the network is the dense one itself, which loses nothing to it.
    """
    pruned, dense = (
        accuracy_interval(correct, 1 - 2 * risk / n_looks)
        for correct in (pruned_correct, dense_correct)
    )  # each end alone is wrong with the risk of a look
    if is_absolute:
        bound = pruned.low
    elif is_dense:
        bound = dense.value
    elif (pruned_correct == dense_correct).all():
        bound = dense.value - undetectable_loss(len(pruned_correct), risk, n_looks)
    else:
        bound = dense.value + _difference_bound(
            pruned_correct, dense_correct, pruned.low, dense.high
        )
    return Verdict(pruned.value, bound, floor, n_looks, risk, bound >= floor)


def difference_interval(
    right: NDArray[np.bool_], of_dense: NDArray[np.bool_], confidence: float = 0.95
) -> Interval:
    """How much more accurate a network is than the dense one on the same images, paired, with an
    interval (see `_difference_bound`).

    Args:
        right: `(n_images,)` whether the network is right.
        of_dense: `(n_images,)` whether the dense network is.
        confidence: of the interval.
    """
    own, other = accuracy_interval(right, confidence), accuracy_interval(of_dense, confidence)
    low, high = (
        _difference_bound(right, of_dense, own.low, other.high),
        -_difference_bound(of_dense, right, other.low, own.high),
    )
    return Interval(own.value - other.value, low, high)


def undetectable_loss(n_images: int, risk: float, n_looks: int = 1) -> float:
    """The loss that a network which is right and wrong on the same images as the dense one may
    still have, in accuracy.

    A network that loses more than this would differ on one of the images, with the probability 1 -
    risk.

    Args:
        n_images: it was judged on.
        risk: in all looks together, in (0, 1).
        n_looks: how often the gate may be asked.
    """
    return float(1 - (risk / n_looks) ** (1 / n_images))


def _difference_bound(
    pruned: NDArray[np.bool_], dense: NDArray[np.bool_], low: float, high: float
) -> float:
    """Lower bound of a paired difference of two proportions (Newcombe, Statistics in Medicine 17,
    1998, method 10).

    The bound by the standard deviation of the differences lets networks pass half as often again as
    it should: few
    images differ, and most of them in one direction.

    Args:
        pruned: `(n_images,)`.
        dense: `(n_images,)`.
        low: Wilson's lower bound of the pruned network's accuracy.
        high: Wilson's upper bound of the dense network's.
    """
    p, d = float(pruned.mean()), float(dense.mean())
    spread = math.sqrt(p * (1 - p) * d * (1 - d))
    correlation = (float((pruned & dense).mean()) - p * d) / spread if spread > 0 else 0.0
    return (
        p
        - d
        - math.sqrt(
            max((p - low) ** 2 - 2 * correlation * (p - low) * (high - d) + (high - d) ** 2, 0.0)
        )
    )
