"""The guard: a group is pruned only where removing its channels computes what masking them computes.

Unsupported structures fail silently in a dependency graph: chunks by position, norms over channels, views. So one
channel of each group is removed from a copy and masked in another, and their outputs are compared. All groups are
tried together first; where the outputs differ, halves are tried until the groups at fault are found. Called by `groups`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from cprune_rl.pruning.graph import ChannelGraph

__all__ = ["refusals"]

_TOLERANCE = 1e-4  # of the largest output, at least of 1


def refusals(model: nn.Module, example: torch.Tensor, groups: Sequence[str]) -> dict[str, str]:
    """The groups whose channels cannot be removed safely, each with the reason.

    Args:
        model: with trainable parameters; left as it was.
        example: one batch of its input.
        groups: names of their root layers.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(example.shape, generator=generator)  # zeros would hide what a layer does to its input
    return _search(model, example, image, list(groups))


def _search(model: nn.Module, example: torch.Tensor, image: torch.Tensor, groups: list[str]) -> dict[str, str]:
    if not groups or (reason := _reason(model, example, image, groups)) is None:
        return {}
    if len(groups) == 1:
        return {groups[0]: reason}
    middle = len(groups) // 2
    return {**_search(model, example, image, groups[:middle]), **_search(model, example, image, groups[middle:])}


def _reason(model: nn.Module, example: torch.Tensor, image: torch.Tensor, groups: Sequence[str]) -> str | None:
    """Why removing one channel of each is not the same as masking it, or None."""
    pruned, masked = copy.deepcopy(model), copy.deepcopy(model)
    try:
        remover, masker = ChannelGraph(pruned, example), ChannelGraph(masked, example)
        for name in groups:
            masker.mask(name, [0])
        for name in groups:
            remover.remove(name, [0])
        with torch.no_grad():
            found, expected = pruned.eval()(image), masked.eval()(image)
            difference, scale = float((found - expected).abs().max()), max(1.0, float(expected.abs().max()))
    except Exception as error:  # torch-pruning raises whatever an unsupported structure provokes
        return f"removing a channel fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None if difference <= _TOLERANCE * scale else f"removing a channel is not masking it (outputs differ by {difference:.2g})"
