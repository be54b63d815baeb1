"""Gives the images on which other forms of a network are compared with torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cprune_rl.accuracy.data import ImageData, Split

__all__ = ["comparison_images", "spread_images"]

_N_IMAGES = 16


def comparison_images(data: ImageData) -> NDArray[np.float32]:
    """Give images of the gate, spread over all of them: the same ones each time.

    Returns:
        `(n, channels, height, width)`, normalised; 16, or as many as there are.
    """
    return spread_images(data.gate)


def spread_images(split: Split) -> NDArray[np.float32]:
    """Give images spread over all of a split: the same ones each time.

    Returns:
        `(n, channels, height, width)`, normalised; 16, or as many as there are.
    """
    n_images = min(_N_IMAGES, len(split))
    positions = torch.linspace(0, len(split) - 1, n_images).long()
    images = split.batch(positions.to(split.device))
    return np.ascontiguousarray(images.cpu().numpy())
