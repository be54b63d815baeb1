"""Compiles a network at random plans, in every form, and compares it with torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cprune_rl.compiler.deploy.build import run_library
from cprune_rl.compiler.deploy.plain_build import build_plain, form_names
from cprune_rl.compiler.layouts.variants import LayoutVariants
from cprune_rl.core.network import Network, Plan
from cprune_rl.errors import CPruneError
from cprune_rl.pipeline.preflight.report import Finding
from cprune_rl.pruning.groups import CoupledGroups
from cprune_rl.pruning.surgery import prune

__all__ = ["check_forms", "random_plans"]

_N_IMAGES = 3  # their answers must differ, or a network that ignores its image would pass
_TOLERANCE = 2e-3  # of the spread of the answers


def random_plans(network: Network, count: int, seed: int = 0) -> list[Plan]:
    """Draw plans, every width evenly between the group's minimum and all its channels."""
    rng = np.random.default_rng(seed)
    return [
        Plan(tuple(int(rng.integers(g.minimum, g.channels, endpoint=True)) for g in network.groups))
        for _ in range(count)
    ]


def check_forms(
    variants: LayoutVariants,
    model: nn.Module,
    coupled: CoupledGroups,
    *,
    example: torch.Tensor,
    plans: list[Plan],
) -> Iterator[Finding]:
    """Compare every form at some plans with torch; a finding for each form.

    Args:
        variants: the network in every form.
        model: the dense network.
        coupled: its groups.
        example: one image as a batch; its values are not used.
        plans: to compile.
    """
    pruned = [(plan, prune(model, coupled, plan)) for plan in plans]
    for form, name in enumerate(form_names(variants)):
        worst = 0.0
        failure = ""
        for plan, network in pruned:
            try:
                worst = max(worst, _error(variants, form, plan, model=network, example=example))
            except CPruneError as error:
                failure = f"at the widths {list(plan.widths)}: {error}"
                break
        what = f"compiled in {name}"
        if failure or worst > _TOLERANCE:
            found = failure or f"differs from torch by {worst:.1%} of the spread of the answers"
            yield Finding(what=what, found=found, status="failed")
        else:
            found = f"equal to torch at {len(plans)} random plans, within {worst:.1g} of the spread"
            yield Finding(what=what, found=found)


def _error(
    variants: LayoutVariants, form: int, plan: Plan, *, model: nn.Module, example: torch.Tensor
) -> float:
    """Give the largest difference to torch, as a share of the spread of the answers."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((_N_IMAGES, *example.shape[1:]), generator=generator)
    with torch.no_grad():
        expected = torch.cat([model(image[None]) for image in images]).numpy()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "network.so"
        choice = variants.uniform_choice(form)
        build_plain(variants, plan, choice, model=model, path=library)
        given = np.concatenate([run_library(library, image[None].numpy()) for image in images])
    spread = float(np.abs(expected - expected.mean(0)).max())
    difference = float(np.abs(given - expected).max())
    return difference / max(spread, float(np.finfo(np.float32).tiny))
