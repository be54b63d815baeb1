"""A group is pruned only where removing its channels computes what masking them computes.

Unsupported structures fail silently in a dependency graph: chunks by position, norms over channels,
views. So a third of each group's channels are removed from one copy and masked in another, and
their outputs are compared. All groups are tried together first. Where the outputs differ, halves
are tried until the groups at fault are found. Many residual branches begin with scales of zero,
which would hide a difference: such scales are drawn anew in the copies.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from cprune_rl.models.copies import copy_network
from cprune_rl.pruning.slices import ChannelSlices

__all__ = ["find_unsafe_groups", "randomize_zero_scales"]

_TOLERANCE = 1e-4  # of the largest output, at least of 1
_KEPT = 2 / 3
_ZERO = 1e-3  # a scale whose entries are all smaller lets nothing through


def find_unsafe_groups(
    model: nn.Module, slices: ChannelSlices, example: torch.Tensor, groups: Mapping[str, int]
) -> dict[str, str]:
    """Finds the groups whose channels cannot be removed safely, each with the reason.

    Args:
        model: the dense network; left as it was.
        slices: where it is cut.
        example: one batch of its input.
        groups: channels of each, by name.
    """
    rng = np.random.default_rng(0)
    kept = {
        name: sorted(rng.choice(n, max(1, round(n * _KEPT)), replace=False).tolist())
        for name, n in groups.items()
    }
    # zeros would hide what a layer does to its input
    image = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    return _search(randomize_zero_scales(model), slices, image, kept=kept)


def randomize_zero_scales(model: nn.Module) -> nn.Module:
    """Copies a network so that no scale is (nearly) zero throughout.

    They begin so in ConvNeXt's blocks, and in the last norm of many residual branches.
    """
    model = copy_network(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.endswith("bias") and value.abs().max() < _ZERO:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def _search(
    model: nn.Module, slices: ChannelSlices, image: torch.Tensor, *, kept: dict[str, list[int]]
) -> dict[str, str]:
    reason = _difference(model, slices, image, kept=kept) if kept else None
    if reason is None:
        return {}
    names = list(kept)
    if len(names) == 1:
        return {names[0]: reason}
    reasons: dict[str, str] = {}
    middle = len(names) // 2
    for half in (names[:middle], names[middle:]):
        reasons |= _search(model, slices, image, kept={name: kept[name] for name in half})
    return reasons


def _difference(
    model: nn.Module, slices: ChannelSlices, image: torch.Tensor, *, kept: dict[str, list[int]]
) -> str | None:
    """Says why removing channels is not the same as masking them; None where it is."""
    try:
        with torch.no_grad():
            output = slices.prune(model, kept)(image)
            expected = slices.mask(model, kept)(image)
            difference = float((output - expected).abs().max())
            scale = max(1.0, float(expected.abs().max()))
    # torch and torch-pruning raise whatever an unsupported structure provokes
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        return f"removing channels fails: {type(error).__name__}: {reason}"
    if difference <= _TOLERANCE * scale:
        return None
    return f"removing channels is not masking them (outputs differ by {difference:.2g})"
