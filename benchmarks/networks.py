"""Which networks go the whole way: pruned, exported, compiled, and equal to torch.

`python benchmarks/networks.py [--json FILE] [--markdown FILE] [--size 64] [--network NAME ...]`.
Each network has random weights and random batch-norm statistics. Every group keeps two thirds of
its channels. Nothing is tuned or timed; the functions compiled are those that a run would tune.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from rich.console import Console
from rich.table import Table
from torch import nn

from cprune_rl.compiler.deploy.build import run_library
from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.export.normalize import folded_values
from cprune_rl.compiler.layouts.compose import compose
from cprune_rl.compiler.layouts.variants import find_layout_variants
from cprune_rl.errors import first_line
from cprune_rl.models.registry import build_model, check_output
from cprune_rl.models.zoo import MODELS
from cprune_rl.pruning.equivalence_check import randomize_zero_scales
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune

LIBRARY = (
    "resnet18",
    "resnet50",
    "vgg16_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet1_0",
    "efficientnet_b0",
    "densenet121",
    "convnext_tiny",
)
NETWORKS = (
    *MODELS,
    *(f"torchvision:{name}" for name in LIBRARY),
    "timm:mobilenetv3_small_100",
    "timm:vit_small_patch16_224",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:resnext50_32x4d",
    "torchvision:vit_b_16",
)
_KEPT = 2 / 3
_TOLERANCE = 1e-3  # of the largest logit
_N_CLASSES = 10
_EXPLANATION = f"""\
Each network has random weights; every group keeps two thirds of its channels. `groups` are those
that pass the equivalence check: what is computed without a channel is what is computed with it
masked. `compiled` is by TVM, without tuning; `equal` where the outputs are torch's within
{_TOLERANCE:g} of the largest.

Made by `python benchmarks/networks.py --markdown docs/networks.md`."""


def examine(name: str, size_px: int) -> dict[str, Any]:
    """Take one network as far as it goes.

    Args:
        name: of the network.
        size_px: height and width of its images. Packaged networks take 32, transformers 224.

    Returns:
        A row: groups, what is left whole and why, and whether each stage was reached, or the error
        that ended it.
    """
    if name in MODELS:
        size_px = 32
    elif "vit" in name:
        size_px = 224
    row: dict[str, Any] = {"network": name, "size_px": size_px}
    started = time.perf_counter()
    try:
        _compile(name, row)
    except Exception as error:  # whatever stops a network belongs into its row
        row["error"] = f"{type(error).__name__}: {first_line(error)}"
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def _compile(name: str, row: dict[str, Any]) -> None:
    """Prune, export and compile a network; fill in its row on the way."""
    model = randomize_zero_scales(build_model(name, _N_CLASSES)).eval()
    example = torch.zeros(1, 3, row["size_px"], row["size_px"])
    check_output(model, example, _N_CLASSES, name)
    _draw_statistics(model)
    coupled = find_groups(model, example)
    layers = {n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    pruned_layers = {layer for group in coupled.groups for layer in group.layers}
    row |= {
        "layers": len(layers),
        "groups": len(coupled.groups),
        "prunable_layers": len(pruned_layers & layers),
        "left_whole": dict(Counter(reason.partition(" (")[0] for _, reason in coupled.unprunable)),
    }
    target = make_target(os.cpu_count() or 1)
    exported = ExportedNetwork.export(model, example, coupled.axes, target)
    variants = find_layout_variants(name, exported, coupled.groups, coupled.unprunable)
    row |= {
        "exported": True,
        "tasks": len(variants.network.subgraphs),
        "forms": len(variants.all),
        "note": variants.note,
    }
    plan = variants.network.uniform(_KEPT)
    pruned = prune(model, coupled, plan)
    choice = variants.uniform_choice(len(variants.all) - 1)
    composed = compose(variants, plan, choice, folded_values(pruned))
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "net.so"
        tvm.compile(composed.module, target=target).export_library(str(library))
        row["compiled"] = True
        image = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = pruned(image).numpy()
        logits = run_library(library, image.numpy())
    error = float(np.abs(logits - expected).max() / np.abs(expected).max())
    row |= {"error_ratio": error, "equal": error <= _TOLERANCE}


def _draw_statistics(model: nn.Module) -> None:
    """Give batch norms statistics: a fresh one would hide a wrong order of channels."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)


COLUMNS = (
    "network",
    "input",
    "groups",
    "prunable layers",
    "left whole",
    "exported",
    "compiled",
    "equal",
    "note",
)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Write a row as people read it, one cell for each of `COLUMNS`."""
    whole = "; ".join(f"{reason} ({n})" for reason, n in row.get("left_whole", {}).items())
    states = ("yes" if row.get(state) else "NO" for state in ("exported", "compiled", "equal"))
    prunable = f"{row['prunable_layers']} of {row['layers']}" if "layers" in row else "-"
    return (
        row["network"],
        f"{row['size_px']}x{row['size_px']}",
        str(row.get("groups", "-")),
        prunable,
        whole,
        *states,
        row.get("error") or row.get("note") or "",
    )


def table(rows: list[dict[str, Any]]) -> Table:
    """Write all rows for a console."""
    view = Table(*COLUMNS)
    for row in rows:
        view.add_row(*cells(row))
    return view


def markdown(rows: list[dict[str, Any]]) -> str:
    """Write all rows for the docs."""
    lines = ["# Which networks go the whole way", "", _EXPLANATION, ""]
    for line in (COLUMNS, ("---",) * len(COLUMNS), *map(cells, rows)):
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="*", default=NETWORKS)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="the table for the docs")
    options = parser.parse_args()
    rows = []
    for name in options.network:
        rows.append(examine(name, options.size))
        print(rows[-1], flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
        if options.markdown:
            options.markdown.write_text(markdown(rows))
    Console().print(table(rows))


if __name__ == "__main__":
    main()
