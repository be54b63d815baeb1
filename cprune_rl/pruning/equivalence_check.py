"""The guard: a group is pruned only where removing its channels computes what masking them
computes.

Unsupported structures fail silently in a dependency graph: chunks by position, norms over channels,
views. So a third
of the channels of each group are removed from a copy and masked in another, and their outputs are
compared. All groups
are tried together first; where the outputs differ, halves are tried until the groups at fault are
found. Scales that begin
at nothing, as many residual branches have them, would hide a difference: they are drawn anew in the
copies. Called by `groups`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from cprune_rl.errors import first_line
from cprune_rl.pruning.slices import ChannelSlices

__all__ = ["find_unsafe_groups", "randomize_zero_scales"]

_TOLERANCE = 1e-4  # of the largest output, at least of 1
_KEPT = 2 / 3
_ASLEEP = 1e-3  # a scale whose entries are all smaller lets nothing through


def find_unsafe_groups(
    model: nn.Module, slices: ChannelSlices, example: torch.Tensor, groups: Mapping[str, int]
) -> dict[str, str]:
    """The groups whose channels cannot be removed safely, each with the reason.

    Args:
        model: the dense network; left as it was.
        slices: where it is cut.
        example: one batch of its input.
        groups: channels of each, by name.
    """
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    image = torch.randn(
        example.shape, generator=generator
    )  # zeros would hide what a layer does to its input
    model = randomize_zero_scales(model)
    kept = {
        name: sorted(rng.choice(n, max(1, round(n * _KEPT)), replace=False).tolist())
        for name, n in groups.items()
    }
    return _search(model, slices, image, kept)


def randomize_zero_scales(model: nn.Module) -> nn.Module:
    """A copy in which no scale is (nearly) zero throughout:

    they begin so in ConvNeXt's blocks, and in the last norm of many residual branches.

    Args:
        model: left as it was.
    """
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.endswith("bias") and value.abs().max() < _ASLEEP:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def _search(
    model: nn.Module, slices: ChannelSlices, image: torch.Tensor, kept: Mapping[str, list[int]]
) -> dict[str, str]:
    if not kept or (reason := _reason(model, slices, image, kept)) is None:
        return {}
    names = list(kept)
    if len(names) == 1:
        return {names[0]: reason}
    middle = len(names) // 2
    return {
        name: why
        for part in (names[:middle], names[middle:])
        for name, why in _search(model, slices, image, {n: kept[n] for n in part}).items()
    }


def _reason(
    model: nn.Module, slices: ChannelSlices, image: torch.Tensor, kept: Mapping[str, list[int]]
) -> str | None:
    """Why removing channels is not the same as masking them, or None."""
    try:
        with torch.no_grad():
            found, expected = slices.prune(model, kept)(image), slices.mask(model, kept)(image)
            difference, scale = (
                float((found - expected).abs().max()),
                max(1.0, float(expected.abs().max())),
            )
    except (
        Exception
    ) as error:  # torch and torch-pruning raise whatever an unsupported structure provokes
        return f"removing channels fails: {type(error).__name__}: {first_line(error)}"
    return (
        None
        if difference <= _TOLERANCE * scale
        else f"removing channels is not masking them (outputs differ by {difference:.2g})"
    )
