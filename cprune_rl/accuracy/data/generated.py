"""Data sets that need no file:

`contours`, drawn, and scikit-learn's `digits`. Called by `names`.
"""

from __future__ import annotations

import itertools

import numpy as np

from cprune_rl.accuracy.data.contours import ContourSettings, draw_contours
from cprune_rl.accuracy.data.splits import ImageData, Split

__all__ = ["DIFFICULTIES", "contours", "digits"]

DIFFICULTIES = {
    "easy": ContourSettings(n_textures=1, noise=0.02, clutter=0.1, rotation_rad=0.2),
    "standard": ContourSettings(),
    "hard": ContourSettings(n_contours=8, n_textures=3, noise=0.08, clutter=0.3, rotation_rad=0.6),
}
"""Presets of `contours:NAME`; `standard` is the one that the documentation speaks of."""


def contours(name: str, difficulty: str = "standard", fast: bool = False) -> ImageData:
    """Draws the images.

    Args:
        name: of the data set.
        difficulty: a key of `DIFFICULTIES`.
        fast: fewer images to train and search on.
    """
    settings = DIFFICULTIES[difficulty]
    sizes = (8000, 2000, 10000, 10000) if fast else (20000, 4000, 10000, 10000)
    train, search, gate, test = (
        Split(*draw_contours(n, seed, settings)) for seed, n in enumerate(sizes, start=1)
    )
    return ImageData(name, settings.n_classes, train, search, gate, test)


def digits(name: str) -> ImageData:
    """1,797 handwritten digits at 32 by 32:

    for smoke tests, any network gets nearly all of them right.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(np.kron(small, np.ones((1, 4, 4), np.uint8))[:, None], 3, axis=1)
    order = np.random.default_rng(0).permutation(len(images))
    bounds = (0, 900, 1200, 1500, len(images))
    train, search, gate, test = (
        Split(images[order[a:b]], bunch.target[order[a:b]].astype(np.int64))
        for a, b in itertools.pairwise(bounds)
    )
    return ImageData(name, 10, train, search, gate, test)
