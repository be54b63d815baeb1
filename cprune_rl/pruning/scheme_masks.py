"""Decides which entries of a layer's weights a scheme keeps, and masks the others during training.

Entries are judged for a block of output channels together, by the sum of squares of their weights.
Where whole kernels are kept, the sum is over the kernel. A kernel's pattern is one of the few that
keep most of the whole network's kernels: the centre and three others (PatDNN, Niu et al., ASPLOS
2020). Kernels that keep least go altogether.

Masks are parametrisations of torch, so that an optimiser cannot move what is pruned; `bake_masks`
leaves plain weights. In a full fine-tune the density falls gradually (Zhu and Gupta, 2017): what
goes is chosen again and again among weights that have adapted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils import parametrize

from cprune_rl.core.scheme import MAX_PATTERN_DENSITY, PATTERN_ENTRIES, PATTERN_KERNEL, Scheme
from cprune_rl.errors import PlanError
from cprune_rl.models.copies import copy_network

__all__ = [
    "N_PATTERNS",
    "apply_masks",
    "bake_masks",
    "find_patterns",
    "increase_sparsity",
    "satisfies_scheme",
    "scheme_mask",
]

N_PATTERNS = 8  # that a network's kernels choose among; not tuned here
_CENTRE = PATTERN_KERNEL // 2


class _Mask(nn.Module):
    """Multiplies weights with a mask."""

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


def apply_masks(model: nn.Module, schemes: Mapping[str, Scheme]) -> nn.Module:
    """Copies a network with layers that are pruned by schemes, and stay so while it is trained.

    Args:
        model: with a convolution or a fully connected layer under each name; left as it was.
        schemes: by layer.

    Raises:
        PlanError: a layer is missing, or its scheme does not fit it.
    """
    masked = copy_network(model)
    layers = dict(masked.named_modules())
    weights: dict[str, torch.Tensor] = {}
    for name in schemes:
        layer = layers.get(name, nn.Identity())
        weight = dict(layer.named_parameters(recurse=False)).get("weight")
        if weight is None or weight.dim() not in (2, 4) or getattr(layer, "groups", 1) > 1:
            raise PlanError(
                f"layer {name!r} cannot be pruned by a scheme: it has no weights of a convolution "
                "without groups, nor of a fully connected layer"
            )
        weights[name] = weight.detach()
    patterns = _patterns_for(schemes, weights)
    for name, scheme in schemes.items():
        mask = scheme_mask(weights[name], scheme, patterns)
        parametrize.register_parametrization(layers[name], "weight", _Mask(mask))
    return masked


def increase_sparsity(model: nn.Module, schemes: Mapping[str, Scheme], progress: float) -> None:
    """Chooses anew what masked layers keep, at a density between 1 and their scheme's; in place.

    Args:
        model: made by `apply_masks` with these schemes.
        schemes: by layer.
        progress: in [0, 1]; the density falls as the cube of what is left of it.
    """
    weights = {
        name: model.get_parameter(f"{name}.parametrizations.weight.original") for name in schemes
    }
    patterns = _patterns_for(schemes, weights)
    for name, scheme in schemes.items():
        # exactly the scheme's in the end: where entries are rounded, a bit more is one entry more
        density = scheme.density + (1 - scheme.density) * (1 - progress) ** 3
        if scheme.kind == "pattern" and density > MAX_PATTERN_DENSITY:
            # every kernel keeps more than its pattern
            mask = torch.ones_like(weights[name])
        else:
            mask = scheme_mask(weights[name], replace(scheme, density=density), patterns)
        model.get_buffer(f"{name}.parametrizations.weight.0.mask").copy_(mask)


def bake_masks(model: nn.Module) -> nn.Module:
    """Copies a network with plain weights, zero where they were pruned.

    This is what is saved, exported and compiled.
    """
    plain = copy_network(model)
    for layer in plain.modules():
        if parametrize.is_parametrized(layer, "weight"):
            original = layer.get_parameter("parametrizations.weight.original")
            weight = original * layer.get_buffer("parametrizations.weight.0.mask")
            # by hand: torch's own removal takes the property off the class, which copies share
            del layer.parametrizations
            layer.__class__ = type(layer).__bases__[0]
            layer.register_parameter("weight", nn.Parameter(weight.detach()))
    return plain


def scheme_mask(weight: torch.Tensor, scheme: Scheme, patterns: torch.Tensor) -> torch.Tensor:
    """Gives ones where a scheme keeps a weight, of the weight's shape.

    Args:
        weight: `(out, in, kh, kw)` or `(out, in)`.
        scheme: to prune by.
        patterns: as `find_patterns` gives them; read by a scheme of patterns alone.

    Raises:
        PlanError: patterns and whole kernels are of 3x3 kernels.
    """
    kernel = tuple(weight.shape[2:])
    if scheme.kind != "block" and kernel != (3, 3):
        raise PlanError(
            f"{scheme} is of 3x3 kernels, this layer's are of {kernel}: prune it in blocks"
        )
    n_out = weight.shape[0]
    n_entries = math.prod(weight.shape[1:])
    block = min(scheme.block, n_out)
    n_blocks = math.ceil(n_out / block)
    squares = weight.new_zeros(n_blocks * block, n_entries, device="cpu")
    squares[:n_out] = weight.detach().cpu().reshape(n_out, n_entries) ** 2
    scores = squares.reshape(n_blocks, block, n_entries).sum(1)
    n_kept = scheme.n_kept(n_entries)
    if scheme.kind == "block":
        kept = _largest(scores, n_kept)
    else:
        kernel_scores = scores.reshape(n_blocks, -1, PATTERN_KERNEL)
        if scheme.kind == "kernel":
            kept = _largest(kernel_scores.sum(2), n_kept // PATTERN_KERNEL)
            kept = kept.repeat_interleave(PATTERN_KERNEL, 1)
        else:
            best, which = (kernel_scores @ patterns.to(scores).T).max(2)
            kept_kernels = _largest(best, n_kept // PATTERN_ENTRIES)
            kept = patterns.to(scores)[which] * kept_kernels[:, :, None]
    by_block = kept.reshape(n_blocks, n_entries)
    return by_block.repeat_interleave(block, 0)[:n_out].reshape(weight.shape).to(weight)


def satisfies_scheme(weight: torch.Tensor, scheme: Scheme) -> bool:
    """Tells whether weights are zero wherever a scheme prunes them.

    Each block may keep so many entries, or kernels, and each kernel no more than a pattern.
    """
    block = min(scheme.block, weight.shape[0])
    flat = weight.detach().reshape(weight.shape[0], -1) != 0
    if scheme.kind == "pattern" and flat.reshape(-1, PATTERN_KERNEL).sum(1).max() > PATTERN_ENTRIES:
        return False
    unit = PATTERN_KERNEL if scheme.kind == "kernel" else 1  # entries that are kept together
    n_units = scheme.n_kept(flat.shape[1]) // unit
    blocks = (rows.any(0).reshape(-1, unit).any(1) for rows in torch.split(flat, block))
    return all(int(is_kept.sum()) <= n_units for is_kept in blocks)


def find_patterns(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """Finds the patterns that most kernels would choose for themselves.

    Args:
        weights: of the layers that are to be pruned by patterns; those that are not
            `(out, in, 3, 3)` do not count.

    Returns:
        `(n, 9)` of ones and zeros, with at most `N_PATTERNS` rows.
    """
    votes: Counter[tuple[int, ...]] = Counter()
    for weight in weights:
        if weight.shape[2:] == (3, 3):
            magnitude = weight.detach().cpu().reshape(-1, PATTERN_KERNEL).abs().clone()
            magnitude[:, _CENTRE] = math.inf
            chosen = magnitude.topk(PATTERN_ENTRIES, dim=1).indices
            votes.update(tuple(sorted(row)) for row in chosen.tolist())
    by_votes = sorted(votes, key=lambda pattern: (-votes[pattern], pattern))
    chosen_patterns = by_votes[:N_PATTERNS] or [tuple(range(PATTERN_ENTRIES))]
    patterns = torch.zeros(len(chosen_patterns), PATTERN_KERNEL)
    for row, pattern in zip(patterns, chosen_patterns, strict=True):
        row[list(pattern)] = 1
    return patterns


def _patterns_for(
    schemes: Mapping[str, Scheme], weights: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    return find_patterns(
        weights[name] for name, scheme in schemes.items() if scheme.kind == "pattern"
    )


def _largest(scores: torch.Tensor, n_kept: int) -> torch.Tensor:
    """Gives ones at the largest scores of each row."""
    return torch.zeros_like(scores).scatter_(1, scores.topk(n_kept, dim=1).indices, 1.0)
