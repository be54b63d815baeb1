"""Small data sets, drawn in a moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cprune_rl.accuracy.data import ImageData, Split
from cprune_rl.accuracy.data.generated import draw_contours

__all__ = ["contours_data", "image_data", "noise_data", "patch_data"]


def contours_data(n_train: int = 256, n_search: int = 64) -> ImageData:
    """Draws a small set of contours, with 64 images each for the gate and the test."""
    sizes = (n_train, n_search, 64, 64)
    splits = [draw_contours(n, seed) for seed, n in enumerate(sizes, start=1)]
    return image_data("contours", splits)


def noise_data(name: str, sizes: Sequence[int], size_px: int = 32) -> ImageData:
    """Draws noise of ten classes: nothing can be learnt from it."""
    rng = np.random.default_rng(0)
    splits = [
        Split(
            images=rng.integers(0, 256, (n, 3, size_px, size_px), np.uint8),
            labels=np.arange(n) % 10,
        )
        for n in sizes
    ]
    return image_data(name, splits)


def patch_data(name: str, sizes: Sequence[int]) -> ImageData:
    """Draws dark images with one bright patch, whose place is the class: learnt in some steps."""
    rng = np.random.default_rng(0)
    splits = []
    for n in sizes:
        labels = np.arange(n) % 10
        images = rng.integers(0, 120, (n, 3, 16, 16), np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 130
        splits.append(Split(images=images, labels=labels))
    return image_data(name, splits)


def image_data(name: str, splits: Sequence[Split]) -> ImageData:
    """Puts train, search, gate and test images of ten classes together."""
    train, search, gate, test = splits
    return ImageData(name=name, n_classes=10, train=train, search=search, gate=gate, test=test)
