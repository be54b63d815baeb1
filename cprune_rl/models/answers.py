"""Gives a network's answers, one image at a time, as other forms of it are asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cprune_rl.errors import ModelError

__all__ = ["torch_answers"]


@torch.no_grad()
def torch_answers(
    model: Callable[[torch.Tensor], torch.Tensor], images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Give the answers of a network.

    Args:
        model: the network, in evaluation mode.
        images: `(n, channels, height, width)`.

    Returns:
        `(n, n_outputs)`.

    Raises:
        ModelError: an answer is no number.
    """
    answers = [model(image[None]).reshape(-1) for image in torch.from_numpy(images)]
    stacked = np.asarray(torch.stack(answers).float().numpy())
    if not np.isfinite(stacked).all():
        raise ModelError(
            "the network answers an image with what is no number, so nothing can be compared with "
            "it: look at its weights, or train it again"
        )
    return stacked
