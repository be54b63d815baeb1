"""What is known of a group before any plan is evaluated: its place, its shape, its weights.

A prior of what a group loses can be learnt from these features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from cprune_rl.models.copies import copy_network
from cprune_rl.pruning.groups import CoupledGroups
from cprune_rl.pruning.importance import score
from cprune_rl.pruning.slices import ChannelSlice

__all__ = ["group_features"]

_QUANTILES = (0.1, 0.5, 0.9)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

Gradients = Callable[[nn.Module], None]


def group_features(
    model: nn.Module, coupled: CoupledGroups, example: torch.Tensor, gradients: Gradients
) -> list[dict[str, float]]:
    """Describe each group of a network, in the order of the groups.

    Args:
        model: the dense network, trained; left as it was.
        coupled: its groups.
        example: one batch of its input.
        gradients: fills in the gradients of a loss.

    Returns:
        Features by name. Logarithms are natural; `depth` is the place of the first writing layer
        among all layers, in [0, 1]; `height` is that of the layer's output, in pixels; quantiles of
        norm scales and of weight norms are over the group's channels, as shares of their mean;
        `taylor_half` is the share of Taylor importance that the less important half has.
    """
    model = copy_network(model).eval()
    heights = _heights(model, example)
    gradients(model)
    order = {name: at for at, (name, _) in enumerate(_layers(model))}
    modules = dict(model.named_modules())
    features = []
    for group in coupled.groups:
        writers = [modules[name.partition("[")[0]] for name in group.layers]
        names = [name.partition("[")[0] for name in group.layers]
        first = min(names, key=lambda name: order.get(name, 0))
        convolutions = [m for m in writers if isinstance(m, _CONVOLUTIONS)]
        slices = [part for part in coupled.slices.all if part.group == group.name]
        taylor = np.sort(np.abs(score("taylor", model, slices, channels=group.channels)))
        half = float(taylor[: group.channels // 2].sum() / max(taylor.sum(), 1e-30))
        values = {
            "log_channels": math.log(group.channels),
            "depth": order.get(first, 0) / max(len(order) - 1, 1),
            "log_height": math.log(max(heights.get(first, 1), 1)),
            "kernel": float(max((m.kernel_size[0] for m in convolutions), default=1)),
            "stride": float(max((m.stride[0] for m in convolutions), default=1)),
            "log_writers": math.log(len(group.layers)),
            "depthwise": float(any(m.groups > 1 for m in convolutions)),
            "log_parameters": math.log(
                sum(p.numel() for m in writers for p in m.parameters(recurse=False)) + 1
            ),
            "taylor_half": half,
        }
        norms = np.linalg.norm(_rows(writers[0], group.channels), axis=1)
        values |= _quantiles("weight", norms)
        values |= _quantiles("norm_scale", _norm_scales(slices, modules, group.channels))
        features.append(values)
    return features


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            yield name, module


def _heights(model: nn.Module, example: torch.Tensor) -> Mapping[str, int]:
    """Height of each layer's output in pixels; 1 where it has none."""
    found: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            found[name] = int(output.shape[2]) if output.ndim > 2 else 1

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in _layers(model)]
    with torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    return found


def _rows(module: nn.Module, channels: int) -> np.ndarray:
    """Weights of each channel that a layer writes, `(channels, n)`."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.shape[0] % channels:
        return np.ones((channels, 1))
    return weight.detach().double().reshape(channels, -1).numpy()


def _norm_scales(
    slices: Sequence[ChannelSlice], modules: Mapping[str, nn.Module], channels: int
) -> np.ndarray:
    """Mean absolute scale of each channel over the norms behind it; ones where there is none."""
    total = np.zeros(channels)
    n_norms = 0
    for part in slices:
        scale = getattr(modules.get(part.layer), "weight", None)
        if part.kind == "norm" and isinstance(scale, torch.Tensor) and scale.ndim == 1:
            values = np.abs(scale.detach().double().numpy())
            np.add.at(total, part.channels, values[part.positions])
            n_norms += 1
    return total / n_norms if n_norms else np.ones(channels)


def _quantiles(name: str, values: np.ndarray) -> dict[str, float]:
    mean = max(float(values.mean()), 1e-12)
    return {f"{name}_q{round(100 * q)}": float(np.quantile(values, q)) / mean for q in _QUANTILES}
