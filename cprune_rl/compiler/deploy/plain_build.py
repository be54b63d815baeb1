"""Builds a network in one form without tuning, to see whether it computes what torch does."""

from __future__ import annotations

from pathlib import Path

import tvm
from torch import nn

from cprune_rl.compiler.export.weight_sources import state_arrays
from cprune_rl.compiler.layouts.compose import compose
from cprune_rl.compiler.layouts.variants import LayoutVariants, VariantChoice
from cprune_rl.core.network import Plan
from cprune_rl.errors import ModelError, last_line

__all__ = ["build_plain", "form_names"]


def form_names(variants: LayoutVariants) -> tuple[str, ...]:
    """Name the forms that a network can be compiled in, in their order."""
    names = []
    for variant in variants.all:
        winograd = ", Winograd's filtering" if variant.exported.uses_winograd else ""
        names.append(f"{variant.layout}{winograd}")
    return tuple(names)


def build_plain(
    variants: LayoutVariants, plan: Plan, choice: VariantChoice, *, model: nn.Module, path: Path
) -> None:
    """Compile a network for this machine, every task by TVM's default schedule.

    Args:
        variants: the network in every form.
        plan: what `model` keeps.
        choice: the form of each subgraph.
        model: the pruned network.
        path: library to write.

    Raises:
        ModelError: TVM cannot compile it.
    """
    composed = compose(variants, plan, choice, state_arrays(model))
    target = variants.all[0].exported.target
    try:
        tvm.compile(composed.module, target=target).export_library(str(path))
    except Exception as error:  # TVM raises errors of many kinds
        raise ModelError(f"TVM cannot compile the network: {last_line(error)}") from error
