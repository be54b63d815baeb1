"""Layout variants: packed convolutions, the whole network's choice, modules composed of several variants,
programs served to TVM.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from tvm import te

from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.kernels.packed_conv import (
    block_size,
    depthwise_conv2d,
    pack,
    pack_depthwise,
    packed_conv2d,
    packed_shape,
)
from cprune_rl.compiler.kernels.window import Window
from cprune_rl.compiler.kernels.winograd import (
    supports_winograd,
    transform_weights,
    transformed_weights_shape,
    winograd_conv2d,
)
from cprune_rl.compiler.tuning.schedule import (
    random_candidates,
)
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.compiler.compiled import assert_compiled_equals_torch, layout_variants
from tests.conftest import Lowered, lower

# --- packing


@given(st.integers(1, 300), st.sampled_from([4, 8, 16]))
def test_a_block_wastes_less_than_itself(channels: int, lanes: int) -> None:
    block = block_size(channels, lanes)
    assert block in (lanes, max(4, lanes // 2))
    assert -(-channels // block) * block - channels < block


@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from([4, 8, 16]))
def test_packing_loses_nothing_and_fills_with_zeros(out: int, n_in: int, lanes: int) -> None:
    weights = np.random.default_rng(0).standard_normal((out, n_in, 3, 3)).astype(np.float32)
    packed = pack(weights, lanes)
    assert packed.shape == packed_shape(weights.shape, lanes)
    flat = packed.transpose(0, 4, 3, 1, 2).reshape(-1, n_in, 3, 3)
    np.testing.assert_array_equal(flat[:out], weights)
    assert not flat[out:].any()


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    ("n_in", "out", "kernel", "stride", "padding", "dilation"),
    [(5, 41, 3, 1, 1, 1), (8, 16, 3, 2, 1, 1), (3, 7, 1, 1, 0, 1), (4, 20, 3, 1, 2, 2)],
)
def test_a_packed_convolution_computes_what_torch_computes(
    layout: str, n_in: int, out: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, n_in, 9, 9)).astype(np.float32)
    weights = rng.standard_normal((out, n_in, kernel, kernel)).astype(np.float32)
    expected = functional.conv2d(
        torch.from_numpy(image), torch.from_numpy(weights), None, stride, padding, dilation
    ).numpy()
    given_image = image if layout == "NCHW" else image.transpose(0, 2, 3, 1)
    data, packed = (
        te.placeholder(given_image.shape, name="data"),
        te.placeholder(packed_shape(weights.shape, 8), name="weights"),
    )
    window = Window(
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(padding,) * 4,
        dilation=(dilation, dilation),
        layout=layout,
    )
    result = packed_conv2d(data, packed, out, window)
    np.testing.assert_allclose(
        run_te([data, packed, result], [given_image, pack(weights, 8)]).transpose(0, 3, 1, 2),
        expected,
        atol=1e-4,
    )


def test_a_depthwise_convolution_in_nhwc_computes_what_torch_computes() -> None:
    rng = np.random.default_rng(0)
    image, weights = (
        rng.standard_normal((1, 6, 8, 8)).astype(np.float32),
        rng.standard_normal((6, 1, 3, 3)).astype(np.float32),
    )
    expected = functional.conv2d(
        torch.from_numpy(image), torch.from_numpy(weights), None, 2, 1, groups=6
    ).numpy()
    data, packed = (
        te.placeholder((1, 8, 8, 6), name="data"),
        te.placeholder((3, 3, 6), name="weights"),
    )
    window = Window(kernel=(3, 3), stride=(2, 2), padding=(1,) * 4, dilation=(1, 1), layout="NHWC")
    result = depthwise_conv2d(data, packed, window)
    np.testing.assert_allclose(
        run_te(
            [data, packed, result], [image.transpose(0, 2, 3, 1), pack_depthwise(weights)]
        ).transpose(0, 3, 1, 2),
        expected,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("n", "height", "width", "n_in", "out", "padding"),
    [
        (1, 8, 8, 16, 24, (1, 1, 1, 1)),
        (2, 9, 6, 3, 17, (0, 2, 1, 0)),
        (1, 3, 3, 5, 4, (0, 0, 0, 0)),
    ],
)
def test_winograds_form_computes_what_torch_computes(
    n: int, height: int, width: int, n_in: int, out: int, padding: tuple[int, int, int, int]
) -> None:
    rng = np.random.default_rng(0)
    image, weights = (
        rng.standard_normal((n, n_in, height, width)).astype(np.float32),
        rng.standard_normal((out, n_in, 3, 3)).astype(np.float32),
    )
    top, left, bottom, right = padding
    expected = functional.conv2d(
        functional.pad(torch.from_numpy(image), (left, right, top, bottom)),
        torch.from_numpy(weights),
    ).numpy()
    data, packed = (
        te.placeholder((n, height, width, n_in), name="data"),
        te.placeholder(transformed_weights_shape(weights.shape, 8), name="weights"),
    )
    result = winograd_conv2d(data, packed, out, padding)
    found = run_te(
        [data, packed, result], [image.transpose(0, 2, 3, 1), transform_weights(weights, 8)]
    ).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "can"),
    [
        ((3, 3), (1, 1), (1, 1), True),
        ((3, 3), (2, 2), (1, 1), False),
        ((1, 3), (1, 1), (1, 1), False),
        ((3, 3), (1, 1), (2, 2), False),
    ],
)
def test_only_dense_3x3_windows_have_winograds_variant(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], can: bool
) -> None:
    window = Window(
        kernel=kernel, stride=stride, padding=(1,) * 4, dilation=dilation, layout="NHWC"
    )
    assert supports_winograd(window) == can


def test_transforms_of_winograds_form_are_unrolled_and_vectorised(lowered: Lowered) -> None:
    variant = lowered.variants.all[2]
    task = variant.lowered(lowered.network.dense).task(variant.calls[1])
    for candidate in random_candidates(task, make_target(1), 3, seed=0):
        unrolled = re.findall(r"in T.unroll\((?:T.int64\()?(\d+)", candidate.module.script())
        assert unrolled.count("6") >= 2
        assert unrolled.count("4") >= 2
        assert candidate.trace.tile_factors("NHWC"), "the channel loop of the products"


def run_te(tensors: list[te.Tensor], inputs: list[np.ndarray]) -> np.ndarray:
    function = te.create_prim_func(tensors).with_attr("global_symbol", "main")
    compiled = tvm.compile(tvm.IRModule({"main": function}), target=make_target(1))
    out = tvm.runtime.tensor(np.zeros([int(d) for d in tensors[-1].shape], np.float32))
    compiled["main"](*(tvm.runtime.tensor(np.ascontiguousarray(i)) for i in inputs), out)
    return np.asarray(out.numpy())


# --- the choice


@pytest.mark.parametrize(
    ("name", "n_winograd"), [("resnet8-w8", 4), ("vgg-small", 5), ("mobilenetv2-small", 0)]
)
def test_packaged_networks_can_be_had_in_nhwc(name: str, n_winograd: int) -> None:
    variants = lower(name).variants
    assert variants.note == ""
    assert [variant.layout for variant in variants.all] == ["NCHW", "NHWC", "NHWC"][
        : len(variants.all)
    ]
    assert sum(2 in distinct for distinct in variants.distinct) == n_winograd
    for plain, *others in variants.workloads(variants.network.uniform(0.7)):
        for other in others:
            assert (plain.macs, plain.channels_in, plain.channels_out, plain.operator) == (
                other.macs,
                other.channels_in,
                other.channels_out,
                other.operator,
            )


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


def test_the_channel_loop_is_found_in_every_variant() -> None:
    variants = lower("mobilenetv2-small").variants
    plan = variants.network.dense
    for at, tasks in enumerate(variants.workloads(plan)):
        for f in variants.distinct[at]:
            if tasks[f].operator.name not in ("conv2d", "depthwise"):
                continue
            task = variants.all[f].lowered(plan).task(variants.all[f].calls[at])
            found = [
                c.trace.tile_factors("NHWC" if "form=" in tasks[f].family else "NCHW")
                for c in random_candidates(task, make_target(1), 1, seed=0)
            ]
            blocks = {
                -(-tasks[f].channels_out // b)
                for b in ((16, 8, 4) if "form=packed" in tasks[f].family else (1,))
            }
            assert all(not factors or int(np.prod(factors)) in blocks for factors in found), tasks[
                f
            ].key


def total(
    lowered: Lowered, costs: list[dict[int, float]], variants: tuple[int, ...], transpose_s: float
) -> float:
    tasks_s = sum(c[f] for c, f in zip(costs, variants, strict=True))
    return tasks_s + transpose_s * len(lowered.variants.choice(variants).transposes)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.floats(0, 2))
def test_the_choice_is_the_best_of_all_choices(
    lowered: Lowered, random: object, transpose_s: float
) -> None:
    costs = [{f: random.random() for f in (0, 1)} for _ in lowered.network.subgraphs]  # type: ignore[attr-defined]
    choice = lowered.variants.choose(costs, lambda _: transpose_s)
    assert choice == lowered.variants.choice(choice.variants)
    best = min(
        total(lowered, costs, variants, transpose_s)
        for variants in itertools.product((0, 1), repeat=len(costs))
    )
    assert total(lowered, costs, choice.variants, transpose_s) == pytest.approx(best)


def test_a_variant_that_does_not_run_is_not_chosen(lowered: Lowered) -> None:
    costs = [
        {0: 1.0, 1: float("inf")} if i % 2 else {0: 2.0, 1: 1.0}
        for i in range(len(lowered.network.subgraphs))
    ]
    choice = lowered.variants.choose(costs, lambda _: 0.1)
    assert all(np.isfinite(c[f]) for c, f in zip(costs, choice.variants, strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_in_any_mixture_of_variants_computes_what_torch_computes(
    lowered: Lowered, seed: int, tmp_path: Path
) -> None:
    plan = lowered.network.uniform(0.7)
    model = prune(lowered.model, lowered.coupled, plan)
    variants = tuple(
        int(f) for f in np.random.default_rng(seed).integers(3, size=len(lowered.network.subgraphs))
    )
    choice = lowered.variants.choice(variants)
    assert choice.transposes, "neighbours differ somewhere"
    assert_compiled_equals_torch(lowered.variants, plan, choice, model, tmp_path)
