"""Compiles a network at random plans, in every form, and compares it with torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cprune_rl.compiler.deploy.plain_build import build_plain, form_names
from cprune_rl.compiler.deploy.run_networks import run_library
from cprune_rl.compiler.layouts.variants import LayoutVariants
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.output_agreement import OutputAgreement, compare_answers
from cprune_rl.errors import CPruneError, ToolchainError
from cprune_rl.models.answers import torch_answers
from cprune_rl.pipeline.preflight.report import Finding
from cprune_rl.pruning.groups import CoupledGroups
from cprune_rl.pruning.surgery import prune

__all__ = ["check_forms", "random_plans"]

_N_IMAGES = 3  # their answers must differ, or a network that ignores its image would pass


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

    Raises:
        ToolchainError: nothing can be built or loaded on this machine.
    """
    pruned = [(plan, prune(model, coupled, plan)) for plan in plans]
    for form, name in enumerate(form_names(variants)):
        what = f"compiled in {name}"
        failure = ""
        worst = 0.0
        for plan, network in pruned:
            try:
                agreement = _compare(variants, form, plan, model=network, example=example)
            except ToolchainError:  # the machine's fault, not the network's
                raise
            except CPruneError as error:
                failure = f"at the widths {list(plan.widths)}: {error}"
                break
            if not agreement.holds:
                failure = f"differs from torch at the widths {list(plan.widths)}: {agreement}"
                break
            worst = max(worst, agreement.relative_difference)
        if failure:
            yield Finding(what=what, found=failure, status="failed")
        else:
            found = f"as torch at {len(plans)} random plans, within {worst:.1g} of the spread"
            yield Finding(what=what, found=found)


def _compare(
    variants: LayoutVariants, form: int, plan: Plan, *, model: nn.Module, example: torch.Tensor
) -> OutputAgreement:
    """Compare one form at one plan with torch, on drawn images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((_N_IMAGES, *example.shape[1:]), generator=generator).numpy()
    expected = torch_answers(model, images)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "network.so"
        choice = variants.uniform_choice(form)
        build_plain(variants, plan, choice, model=model, path=library)
        given = np.concatenate([run_library(library, image[None]) for image in images])
    return compare_answers(expected, given)
