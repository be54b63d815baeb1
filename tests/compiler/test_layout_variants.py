"""Layout variants: the choice for a whole network, and modules composed of several."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.kernels.implementations import PACKED, implementation_of
from cprune_rl.compiler.layouts.choice import choose_variants
from cprune_rl.compiler.layouts.transposes import TransposeTask
from cprune_rl.compiler.layouts.variants import IMAGE, LayoutVariants, Transpose
from cprune_rl.compiler.tuning.schedule import random_candidates
from cprune_rl.core.workload import Workload
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.compiler.compiled import assert_compiled_equals_torch, layout_variants
from tests.conftest import Lowered, lower

# --- what there is to choose from


@pytest.mark.parametrize(
    ("name", "n_winograd"), [("resnet8-w8", 4), ("vgg-small", 5), ("mobilenetv2-small", 0)]
)
def test_packaged_networks_can_be_had_in_nhwc(name: str, n_winograd: int) -> None:
    variants = lower(name).variants
    assert variants.note == ""
    layouts = [variant.layout for variant in variants.all]
    assert layouts == ["NCHW", "NHWC", "NHWC"][: len(layouts)]
    assert sum(2 in distinct for distinct in variants.distinct) == n_winograd


@pytest.mark.parametrize("name", ["resnet8-w8", "vgg-small", "mobilenetv2-small"])
def test_a_task_is_as_large_in_every_variant(name: str) -> None:
    variants = lower(name).variants
    for tasks in variants.workloads(variants.network.uniform(0.7)):
        sizes = {(t.macs, t.channels_in, t.channels_out, t.operator) for t in tasks}
        assert len(sizes) == 1


def test_the_channel_loop_is_found_in_every_variant() -> None:
    variants = lower("mobilenetv2-small").variants
    plan = variants.network.dense
    tried: set[Workload] = set()
    for at, tasks in enumerate(variants.workloads(plan)):
        for position in variants.distinct[at]:
            task = tasks[position]
            if task in tried or task.operator.name not in ("conv2d", "depthwise"):
                continue
            tried.add(task)
            implementation = implementation_of(task.family)
            sizes = (16, 8, 4) if implementation == PACKED else (1,)
            lengths = {-(-task.channels_out // size) for size in sizes}
            lowered = variants.all[position].lowered(plan)
            module = lowered.task(lowered.calls[at])
            for candidate in random_candidates(module, make_target(1), 1, seed=0):
                factors = candidate.trace.tile_factors("NHWC" if implementation else "NCHW")
                assert not factors or int(np.prod(factors)) in lengths, task.key


# --- the choice


def total_s(
    variants: LayoutVariants,
    costs: list[dict[int, float]],
    chosen: tuple[int, ...],
    transpose_s: float,
) -> float:
    tasks_s = sum(c[variant] for c, variant in zip(costs, chosen, strict=True))
    return tasks_s + transpose_s * len(variants.choice(chosen).transposes)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.floats(0, 2))
def test_the_choice_is_the_best_of_all_choices(
    lowered: Lowered, rng: random.Random, transpose_s: float
) -> None:
    variants = lowered.variants
    costs = [{v: rng.random() for v in (0, 1)} for _ in variants.network.subgraphs]
    choice = choose_variants(variants, costs, lambda _: transpose_s)
    assert choice == variants.choice(choice.variants)
    best = min(
        total_s(variants, costs, chosen, transpose_s)
        for chosen in itertools.product((0, 1), repeat=len(costs))
    )
    assert total_s(variants, costs, choice.variants, transpose_s) == pytest.approx(best)


def test_a_variant_that_does_not_run_is_not_chosen(lowered: Lowered) -> None:
    costs = [
        {0: 1.0, 1: math.inf} if at % 2 else {0: 2.0, 1: 1.0}
        for at in range(len(lowered.network.subgraphs))
    ]
    choice = choose_variants(lowered.variants, costs, lambda _: 0.1)
    assert all(math.isfinite(c[v]) for c, v in zip(costs, choice.variants, strict=True))


def test_one_variant_for_all_needs_no_transpose_but_of_the_image_at_most(lowered: Lowered) -> None:
    assert lowered.variants.uniform_choice(0).transposes == ()
    for variant in (1, 2):
        transposes = lowered.variants.uniform_choice(variant).transposes
        assert {transpose.source for transpose in transposes} <= {IMAGE}


def test_a_transpose_is_a_task_of_its_maps_shape(lowered: Lowered) -> None:
    variants = lowered.variants
    plan = variants.network.uniform(0.5)
    image = TransposeTask.from_plan(variants, plan, Transpose(IMAGE, "NHWC"))
    assert (image.shape, image.out_shape) == ((1, 3, 32, 32), (1, 32, 32, 3))
    back = TransposeTask.from_plan(variants, plan, Transpose(0, "NCHW"))
    assert back.workload.key == "transpose to NCHW|" + "x".join(map(str, back.shape))
    assert back.workload.channels_out == back.out_shape[1] == back.shape[3]


# --- composed networks


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 16, 3, 1, 1, groups=4),
        nn.Conv2d(16, 16, 3, 1, 1, groups=2),
        nn.Conv2d(16, 32, 3, 1, 1, groups=16),
    ],
)
def test_a_grouped_convolution_computes_what_torch_computes_in_both_layouts(
    layer: nn.Conv2d, tmp_path: Path
) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        layer,
        nn.Conv2d(layer.out_channels, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    example = torch.zeros(1, 3, 12, 12)
    coupled = find_groups(model, example)
    variants = layout_variants(model, example, coupled)
    assert len(variants.all) >= 2, variants.note
    plan = variants.network.uniform(0.6)
    pruned = prune(model, coupled, plan)
    for variant in range(2):
        choice = variants.uniform_choice(variant)
        assert_compiled_equals_torch(variants, plan, choice, pruned, tmp_path)


class ChannelShuffle(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = x.shape
        parts = x.view(n, 2, channels // 2, height, width)
        return parts.transpose(1, 2).reshape(n, channels, height, width)


def test_a_layout_that_a_part_of_the_network_cannot_take_is_offered_to_the_rest(
    tmp_path: Path,
) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, padding=1),
        ChannelShuffle(),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    example = torch.zeros(1, 3, 12, 12)
    coupled = find_groups(model, example)
    variants = layout_variants(model, example, coupled)
    n_subgraphs = len(variants.network.subgraphs)
    assert [variant.name for variant in variants.all] == [
        "the plain NCHW layout",
        "packed NHWC",
        "packed NHWC with Winograd",
    ]
    packed, winograd = variants.all[1:]
    assert 2 <= packed.n_offered < n_subgraphs
    assert f"packed NHWC is offered for {packed.n_offered} of {n_subgraphs} subgraphs" in (
        variants.note
    )
    missing = [at for at, position in enumerate(packed.positions) if position is None]
    assert all(variants.distinct[at] in ((0,), (0, 2)) for at in missing)
    assert sum(2 in distinct for distinct in variants.distinct) >= 1, winograd.positions
    plan = variants.network.uniform(0.6)
    pruned = prune(model, coupled, plan)
    mixed = variants.choice([at % 3 for at in range(n_subgraphs)])
    for choice in (*map(variants.uniform_choice, range(3)), mixed):
        assert_compiled_equals_torch(variants, plan, choice, pruned, tmp_path)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_in_any_mixture_of_variants_computes_what_torch_computes(
    lowered: Lowered, seed: int, tmp_path: Path
) -> None:
    variants = lowered.variants
    plan = variants.network.uniform(0.7)
    model = prune(lowered.model, lowered.coupled, plan)
    drawn = np.random.default_rng(seed).integers(3, size=len(variants.network.subgraphs))
    choice = variants.choice([int(variant) for variant in drawn])
    assert choice.transposes, "neighbours differ somewhere"
    assert_compiled_equals_torch(variants, plan, choice, model, tmp_path)
