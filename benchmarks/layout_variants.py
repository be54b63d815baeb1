"""Compares a convolution's layout variants after equally many trials; part of `measurement.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import tvm
from torch import nn

from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.devices.target import vector_width
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.kernels.packed_conv import block_size
from cprune_rl.compiler.layouts.variants import (
    LayoutVariant,
    LayoutVariants,
    find_layout_variants,
)
from cprune_rl.compiler.tuning.budget import TuningBudget
from cprune_rl.compiler.tuning.output_check import checked_task
from cprune_rl.compiler.tuning.task_tuner import TaskTuner, TuningTask
from cprune_rl.core.network import Plan
from cprune_rl.cost_cache import open_store

NEVER_ENOUGH_S = 1e9  # what 1 % of a network is worth to a search that is to use up its trials
_EQUAL = TuningBudget(n_pool=0, n_random=12, n_max=32, worth_s=NEVER_ENOUGH_S)  # of each variant
_VARIANTS = ("plain", "packed", "winograd")  # in the order of `LayoutVariants.all`
Tuned = dict[str, tuple[float, int]]


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A shape to compare the variants on.

    Attributes:
        kernel: height and width.
        stride: vertical and horizontal.
        n_in: channels read.
        n_out: channels written.
        height: of the square map that is read.
    """

    kernel: int
    stride: int
    n_in: int
    n_out: int
    height: int

    def padded(self, lanes: int) -> Convolution:
        """Fill the channels up to whole blocks, as a network without tails has them."""
        n_in = block_size(self.n_in, lanes)
        n_out = block_size(self.n_out, lanes)
        return replace(
            self,
            n_in=math.ceil(self.n_in / n_in) * n_in,
            n_out=math.ceil(self.n_out / n_out) * n_out,
        )

    def variants(self, target: tvm.target.Target) -> tuple[LayoutVariants, int]:
        """Return a network around it, in every variant, and its position there.

        Convolutions stand before and after it: alone it would read the image, and write a map that
        is transposed back.
        """
        model = nn.Sequential(
            nn.Conv2d(3, self.n_in, 1),
            nn.ReLU(),
            nn.Conv2d(self.n_in, self.n_out, self.kernel, self.stride, self.kernel // 2),
            nn.ReLU(),
            nn.Conv2d(self.n_out, 8, 1),
        )
        image = torch.zeros(1, 3, self.height, self.height)
        exported = ExportedNetwork.export(model.eval(), image, {}, target)
        variants = find_layout_variants("one convolution", exported, ())
        layers = [subgraph.layers for subgraph in variants.network.subgraphs]
        return variants, layers.index(("2",))


CONVOLUTIONS = tuple(
    Convolution(kernel=kernel, stride=stride, n_in=n_in, n_out=n_out, height=height)
    for kernel, stride, n_in, n_out, height in (
        (3, 1, 24, 24, 32),
        (3, 1, 41, 41, 32),
        (3, 1, 48, 48, 16),
        (3, 1, 41, 41, 16),
        (3, 1, 64, 64, 8),
        (3, 1, 83, 83, 8),
        (3, 2, 24, 48, 32),
        (3, 2, 41, 83, 16),
        (1, 1, 24, 48, 32),
        (1, 1, 41, 83, 16),
        (1, 2, 24, 48, 32),
        (1, 2, 41, 83, 16),
    )
)


def variant_latencies(
    device: RpcDevice, shapes: Sequence[Convolution] = CONVOLUTIONS, budget: TuningBudget = _EQUAL
) -> list[dict[str, float | None]]:
    """Time the fastest schedule of each variant, from scratch, and what a tail costs.

    Args:
        device: where.
        shapes: convolutions, each with its bias and ReLU.
        budget: of each variant of each shape; small design spaces end earlier, `fewest_trials` says
            so.

    Returns:
        A row for each shape: microseconds in each variant, None where the variant is no other.
        Where the block does not divide the channels that are written, `padded_us` is the packed
        variant with channels filled up to whole blocks, and `tail_over_padded` the latency with a
        tail as a share of it.
    """
    rows: list[dict[str, float | None]] = []
    for shape in shapes:
        tuned = _tuned(device, shape, budget)
        padded = shape.padded(vector_width(device.target))
        if padded.n_out != shape.n_out:
            tuned["padded"] = _tuned(device, padded, budget, ("packed",))["packed"]
        row: dict[str, float | None] = {**vars(shape)}
        for name in (*_VARIANTS, "padded"):
            row[f"{name}_us"] = tuned[name][0] * 1e6 if name in tuned else None
        row["tail_over_padded"] = None
        if "padded" in tuned:
            row["tail_over_padded"] = tuned["packed"][0] / tuned["padded"][0]
        row["fewest_trials"] = min(n_trials for _, n_trials in tuned.values())
        rows.append(row)
    return rows


def subgraph_task(device: RpcDevice, variant: LayoutVariant, plan: Plan, at: int) -> TuningTask:
    """Make the task of a plan's subgraph, worth all its trials, its output checked as a tuner's."""
    placed = variant.placed(plan)[at]
    workload = variant.network.workloads(plan)[at]
    return TuningTask(
        workload, lambda: checked_task(placed.lowered, placed.call, device), share=1.0
    )


def _tuned(
    device: RpcDevice,
    shape: Convolution,
    budget: TuningBudget,
    wanted: Sequence[str] = _VARIANTS,
) -> Tuned:
    """Tune a convolution in its distinct variants, each with a tuner that knows nothing else.

    Returns:
        Seconds and trials of each variant.
    """
    variants, at = shape.variants(device.target)
    tuned = {}
    for position in variants.distinct[at]:
        name = _VARIANTS[position]
        if name in wanted:
            tuner = TaskTuner(device, open_store(None), seed=0, since=math.inf)
            task = subgraph_task(device, variants.all[position], variants.network.dense, at=at)
            cost = tuner.tune(task, "form", budget)
            tuned[name] = cost.latency_s, tuner.n_trials(task.workload)
    return tuned
