"""Orders labelled images so that every part of them has the classes in their proportions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["in_split_order", "sample_of_each_class"]

# A class with less than this many images has its first one early, so that the gate has one of it.
_SMALL_CLASS = 9
_EARLY = 0.1  # of the order: less than the gate's share


def in_split_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Gives an order whose parts can be gate, search, test and train, in this order.

    A class that has one image has it at the end, where training takes its images.

    Args:
        labels: `(n,)`.
        rng: draws which image of a class comes when.

    Returns:
        `(n,)` positions.
    """
    return _order(labels, rng, single_at=1.0)


def sample_of_each_class(
    labels: NDArray[np.int64], n_images: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draws images of every class in proportion.

    Args:
        labels: `(n,)`; all alike where there are no classes.
        n_images: to draw; a class with few images keeps one where there is room.

    Returns:
        `(n_images,)` positions, ascending.
    """
    return np.sort(_order(labels, rng, single_at=0.0)[:n_images])


def _order(
    labels: NDArray[np.int64], rng: np.random.Generator, *, single_at: float
) -> NDArray[np.int64]:
    """Spreads the images of each class evenly over the order.

    The i-th of n images has the key (i + phase) / n, with one phase in [0, 1) for each class.
    """
    shuffled = rng.permutation(len(labels))
    _, class_of, counts = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    by_class = np.argsort(class_of, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    phase = rng.random(len(counts)) * np.where(counts < _SMALL_CLASS, _EARLY * counts, 1.0)
    key = (rank + np.repeat(phase, counts)) / np.repeat(counts, counts)
    key[np.repeat(counts, counts) == 1] = single_at
    return shuffled[by_class][np.argsort(key, kind="stable")]
