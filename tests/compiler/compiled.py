"""Networks compiled without tuning, to see what they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import tvm
from torch import nn

from cprune_rl.compiler.deploy.run_networks import run_library
from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.export.weight_sources import state_arrays
from cprune_rl.compiler.layouts.compose import compose
from cprune_rl.compiler.layouts.variants import (
    LayoutVariants,
    VariantChoice,
    find_layout_variants,
)
from cprune_rl.core.network import Plan
from cprune_rl.pruning.groups import CoupledGroups


def layout_variants(
    model: nn.Module, example: torch.Tensor, coupled: CoupledGroups
) -> LayoutVariants:
    """Export a network and describe it in every variant."""
    exported = ExportedNetwork.export(model, example, coupled.axes, make_target(1), coupled.written)
    return find_layout_variants("model", exported, coupled.groups, coupled.unprunable)


def assert_compiled_equals_torch(
    variants: LayoutVariants, plan: Plan, choice: VariantChoice, model: nn.Module, folder: Path
) -> None:
    """Compile the chosen variants with a model's weights, and compare the logits of an image.

    Args:
        variants: the dense network in every variant.
        plan: what `model` keeps.
        choice: the variant of each subgraph.
        model: the pruned network.
        folder: to compile in.
    """
    composed = compose(variants, plan, choice, state_arrays(model))
    # A path that was loaded before would give the library that was there then.
    library = folder / f"{len(list(folder.iterdir()))}.so"
    tvm.compile(composed.module, target=make_target(1)).export_library(str(library))
    image = torch.randn(tuple(int(d) for d in composed.module["main"].params[0].ty.shape))
    with torch.no_grad():
        expected = model(image).numpy()
    compiled = run_library(library, image.numpy())
    np.testing.assert_allclose(compiled, expected, atol=1e-4)
