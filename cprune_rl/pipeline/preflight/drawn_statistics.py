"""Statistics for the batch norms of a network that was not trained.

Those of a new network, zeros and ones, would hide a wrong order of channels. Statistics that do not
fit what a layer gives would hide more: signals die away from layer to layer until the answers are
the same for every image, and nothing can be compared by them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["draw_statistics"]

_N_IMAGES = 8
_MEAN_SIGMA = 0.1  # standard deviations that a mean is off
_LEAST_VARIANCE = 0.5  # factors of a variance, up to one more
_SMALLEST = 1e-6  # variance of a channel that gives the same for every image


def draw_statistics(model: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """Give a network's batch norms statistics near those of random images.

    Args:
        model: changed in place.
        input_shape: of one image.

    Returns:
        The same network. Where it cannot be run, statistics do not fit; whoever runs it next says
        what is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    ]
    for norm in norms:
        zeros = torch.zeros(norm.num_features)
        _set(norm, zeros, zeros + 1, generator)
    images = torch.randn((_N_IMAGES, *input_shape), generator=generator)
    was_training = model.training
    with contextlib.ExitStack() as stack:
        stack.callback(model.train, was_training)
        model.eval()
        for norm in norms:
            hook = norm.register_forward_pre_hook(_fit_once(generator))
            stack.callback(hook.remove)
        # whatever a stranger's network raises, the check of its forward reports
        stack.enter_context(contextlib.suppress(Exception))
        stack.enter_context(torch.no_grad())
        model(images)
    return model


def _fit_once(generator: torch.Generator) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Make a hook that fits a norm to what it gets first, before it is computed."""
    is_done = False

    def fit(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal is_done
        if is_done:
            return
        is_done = True
        channels = inputs[0].detach().transpose(0, 1).flatten(1)
        variance = channels.var(dim=1).clamp_min(_SMALLEST)
        _set(norm, channels.mean(dim=1), variance, generator)

    return fit


def _set(norm: Any, mean: torch.Tensor, variance: torch.Tensor, generator: torch.Generator) -> None:
    """Set statistics near some."""
    shape = norm.running_mean.shape
    shift = torch.randn(shape, generator=generator) * _MEAN_SIGMA
    norm.running_mean.copy_(mean + shift * variance.sqrt())
    factor = torch.rand(shape, generator=generator) + _LEAST_VARIANCE
    norm.running_var.copy_(variance * factor)
