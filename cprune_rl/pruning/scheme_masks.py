"""Which entries of a layer's weights a scheme keeps, and how they are held while the network learns
on.

Entries are judged for a block of output channels together, by the sum of squares of their weights;
where whole kernels are
kept, by the sum over the kernel. A kernel's pattern is
one of the few that keep most of the whole network's kernels (PatDNN, Niu et al., ASPLOS 2020: the
centre and three others);
kernels that keep least go altogether. Masks are parametrisations of torch, so that an optimiser
cannot move what is
pruned; `bake_masks` leaves plain weights. In a full fine-tune the density falls gradually (Zhu and
Gupta, 2017): what goes is
chosen again and again among weights that have adapted. Called by oracles and by the job.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import torch
from torch import nn
from torch.nn.utils import parametrize

from cprune_rl.core.scheme import MAX_PATTERN_DENSITY, PATTERN_ENTRIES, PATTERN_KERNEL, Scheme
from cprune_rl.errors import PlanError

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
    """Weights times a mask."""

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Zero where the mask is."""
        return weight * self.mask


def apply_masks(model: nn.Module, schemes: Mapping[str, Scheme]) -> nn.Module:
    """A copy of a network whose layers are pruned by schemes, and stay so while it is trained.

    Args:
        model: with a convolution or a fully connected layer under each name; left as it was.
        schemes: by layer.

    Raises:
        PlanError: a layer is missing, or its scheme does not fit it.
    """
    held = copy.deepcopy(model)
    layers = dict(held.named_modules())
    weights: dict[str, torch.Tensor] = {}
    for name in schemes:
        layer = layers.get(name)
        weight = (
            None if layer is None else dict(layer.named_parameters(recurse=False)).get("weight")
        )
        if weight is None or weight.dim() not in (2, 4) or getattr(layer, "groups", 1) > 1:
            raise PlanError(
                f"layer {name!r} cannot be pruned by a scheme: it has no weights of a convolution without groups, nor of a fully connected layer"
            )
        weights[name] = weight.detach()
    patterns = find_patterns(
        [weights[name] for name, scheme in schemes.items() if scheme.kind == "pattern"]
    )
    for name, scheme in schemes.items():
        parametrize.register_parametrization(
            layers[name], "weight", _Mask(scheme_mask(weights[name], scheme, patterns))
        )
    return held


def increase_sparsity(model: nn.Module, schemes: Mapping[str, Scheme], share: float) -> None:
    """Chooses anew what held layers keep, at a density on the way from 1 to their scheme's;

    in place.

    Args:
        model: made by `apply_masks` with these schemes.
        schemes: by layer.
        share: of the way, in [0, 1]; the density falls as the cube of what is left of it.
    """
    weights = {
        name: model.get_parameter(f"{name}.parametrizations.weight.original") for name in schemes
    }
    patterns = find_patterns(
        [weights[name] for name, scheme in schemes.items() if scheme.kind == "pattern"]
    )
    for name, scheme in schemes.items():
        density = (
            scheme.density + (1 - scheme.density) * (1 - share) ** 3
        )  # exactly the scheme's in the end: where entries are rounded, a bit more is one entry more
        is_whole = (
            scheme.kind == "pattern" and density > MAX_PATTERN_DENSITY
        )  # every kernel keeps more than its pattern
        mask = (
            torch.ones_like(weights[name])
            if is_whole
            else scheme_mask(weights[name], replace(scheme, density=density), patterns)
        )
        model.get_buffer(f"{name}.parametrizations.weight.0.mask").copy_(mask)


def bake_masks(model: nn.Module) -> nn.Module:
    """A copy with plain weights, zero where they were pruned:

    what is saved, exported and compiled.
    """
    plain = copy.deepcopy(model)
    for layer in plain.modules():
        if parametrize.is_parametrized(layer, "weight"):
            weight: torch.Tensor = layer.get_parameter(
                "parametrizations.weight.original"
            ) * layer.get_buffer("parametrizations.weight.0.mask")
            del (
                layer.parametrizations
            )  # by hand: torch's own removal takes the property off the class, which copies share
            layer.__class__ = type(layer).__bases__[0]
            layer.register_parameter("weight", nn.Parameter(weight.detach()))
    return plain


def scheme_mask(weight: torch.Tensor, scheme: Scheme, patterns: torch.Tensor) -> torch.Tensor:
    """Ones where a scheme keeps a weight, of the weight's shape.

    Args:
        weight: `(out, in, kh, kw)` or `(out, in)`.
        scheme: to prune by.
        patterns: see `find_patterns`; read by a scheme of patterns alone.

    Raises:
        PlanError: patterns and whole kernels are of 3x3 kernels.
    """
    if scheme.kind != "block" and tuple(weight.shape[2:]) != (3, 3):
        raise PlanError(
            f"{scheme} is of 3x3 kernels, this layer's are of {tuple(weight.shape[2:])}: prune it in blocks"
        )
    n_out, n_entries = weight.shape[0], math.prod(weight.shape[1:])
    block = min(scheme.block, n_out)
    n_blocks = -(-n_out // block)
    filled = torch.zeros(n_blocks * block, n_entries, dtype=weight.dtype)
    filled[:n_out] = weight.detach().cpu().reshape(n_out, -1) ** 2
    scores = filled.reshape(n_blocks, block, n_entries).sum(1)
    n_kept = scheme.n_kept(n_entries)
    if scheme.kind == "pattern":
        kept = _kept_patterns(scores, n_kept // PATTERN_ENTRIES, patterns)
    elif scheme.kind == "kernel":
        kept = _largest(_by_kernel(scores).sum(2), n_kept // PATTERN_KERNEL).repeat_interleave(
            PATTERN_KERNEL, 1
        )
    else:
        kept = _largest(scores, n_kept)
    return kept.repeat_interleave(block, 0)[:n_out].reshape(weight.shape).to(weight)


def satisfies_scheme(weight: torch.Tensor, scheme: Scheme) -> bool:
    """Whether weights are zero wherever a scheme prunes them:

    each block keeps no more entries, or kernels, than it may, each kernel no more than a pattern.
    """
    block = min(scheme.block, weight.shape[0])
    flat = weight.detach().reshape(weight.shape[0], -1) != 0
    if (
        scheme.kind == "pattern"
        and int(flat.reshape(-1, PATTERN_KERNEL).sum(1).max()) > PATTERN_ENTRIES
    ):
        return False
    unit = PATTERN_KERNEL if scheme.kind == "kernel" else 1  # entries that are kept together
    n_units = scheme.n_kept(flat.shape[1]) // unit
    return all(
        int(flat[at : at + block].any(0).reshape(-1, unit).any(1).sum()) <= n_units
        for at in range(0, len(flat), block)
    )


def find_patterns(weights: list[torch.Tensor]) -> torch.Tensor:
    """The patterns that most kernels would choose for themselves:

    `(N_PATTERNS at most, 9)` of ones and zeros.

    Args:
        weights: `(out, in, 3, 3)` of the layers that are to be pruned by patterns; others are
            passed over.
    """
    votes: Counter[tuple[int, ...]] = Counter()
    for weight in weights:
        if weight.shape[2:] == (3, 3):
            magnitude = weight.detach().cpu().reshape(-1, PATTERN_KERNEL).abs().clone()
            magnitude[:, _CENTRE] = math.inf
            votes.update(
                tuple(sorted(row))
                for row in magnitude.topk(PATTERN_ENTRIES, dim=1).indices.tolist()
            )
    chosen = [
        pattern
        for pattern, _ in sorted(votes.items(), key=lambda item: (-item[1], item[0]))[:N_PATTERNS]
    ] or [next(_all_patterns())]
    found = torch.zeros(len(chosen), PATTERN_KERNEL)
    for at, pattern in enumerate(chosen):
        found[at, list(pattern)] = 1
    return found


def _all_patterns() -> combinations[tuple[int, ...]]:
    return combinations(range(PATTERN_KERNEL), PATTERN_ENTRIES)


def _largest(scores: torch.Tensor, n_kept: int) -> torch.Tensor:
    """Ones at the largest scores of each row."""
    return torch.zeros_like(scores).scatter_(1, scores.topk(n_kept, dim=1).indices, 1.0)


def _by_kernel(scores: torch.Tensor) -> torch.Tensor:
    return scores.reshape(len(scores), -1, PATTERN_KERNEL)


def _kept_patterns(scores: torch.Tensor, n_kernels: int, patterns: torch.Tensor) -> torch.Tensor:
    """Ones at the best pattern of each kernel, of the kernels that keep most by theirs."""
    best, which = (_by_kernel(scores) @ patterns.to(scores).T).max(2)
    return (patterns.to(scores)[which] * _largest(best, n_kernels)[:, :, None]).reshape(
        scores.shape
    )
