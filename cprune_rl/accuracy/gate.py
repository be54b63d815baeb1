"""The final gate: does a finished network hold the floor, judged on images nothing else uses?

The same images are shown to the dense and the pruned network, so most of the sampling error cancels:
what counts is the images they disagree on. A search that backs off asks the gate several times, and each
time luck has a chance: the risk is shared out between the looks (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True)
class Verdict:
    """The gate's decision.

    Attributes:
        accuracy: of the network on the gate images, in [0, 1].
        lower_bound: of its accuracy, one-sided, with the sampling error of the difference to the dense network.
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


def judge(dense_correct: NDArray[np.bool_], pruned_correct: NDArray[np.bool_], floor: float, n_looks: int = 1, risk: float = 0.05) -> Verdict:
    """Decides with a paired one-sided bound.

    Args:
        dense_correct: `(n_images,)` whether the dense network is right.
        pruned_correct: `(n_images,)` whether the pruned network is right on the same images.
        floor: accuracy that must hold, in [0, 1].
        n_looks: how often at most this search may ask.
        risk: that a network below the floor passes in any of the looks, in (0, 1).
    """
    difference = pruned_correct.astype(float) - dense_correct.astype(float)
    accuracy = float(pruned_correct.mean())
    error = float(difference.std(ddof=1) / np.sqrt(len(difference))) if difference.any() else 0.0
    bound = accuracy - float(norm.ppf(1 - risk / n_looks)) * error
    return Verdict(accuracy, bound, floor, n_looks, risk, bound >= floor)
