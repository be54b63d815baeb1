"""Compares what another runtime (ONNX Runtime, ExecuTorch) computes with what torch does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cprune_rl.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EXPORT_TOLERANCE", "check_same_answers", "random_images"]

EXPORT_TOLERANCE = 1e-3
"""How far logits of two runtimes may differ, as a share of the largest one."""


def random_images(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw images that are the same each time.

    Args:
        shape: of the batch.
    """
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def check_same_answers(
    model: nn.Module,
    images: NDArray[np.float32],
    logits: NDArray[np.float32],
    runtime: str,
) -> None:
    """Refuse what a runtime computed where torch computes something else.

    Args:
        model: in evaluation mode.
        images: one batch.
        logits: that the runtime gave.
        runtime: its name, in the error.

    Raises:
        ModelError: they differ.
    """
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    if logits.shape != expected.shape:
        raise ModelError(f"{runtime} gives {logits.shape}, torch {expected.shape}")
    difference = float(np.abs(logits - expected).max())
    largest = float(np.abs(expected).max())
    if not difference <= EXPORT_TOLERANCE * largest:
        raise ModelError(
            f"{runtime} computes something else than torch: logits differ by {difference:.1e}, "
            f"the largest is {largest:.1e}"
        )
