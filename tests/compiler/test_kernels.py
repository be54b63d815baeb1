"""What this project's implementations of layers compute, alone, against torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from tvm import te

from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.kernels.block_sparse import BlockSparseFormat
from cprune_rl.compiler.kernels.implementations import (
    BLOCK_SPARSE,
    DEPTHWISE,
    GROUPED,
    PACKED,
    SPARSE_WINOGRAD,
    WINOGRAD,
    Implementation,
    family_attribute,
    implement_convolution,
    implement_pruned_convolution,
    implement_pruned_dense,
    implementation_of,
)
from cprune_rl.compiler.kernels.packed_conv import block_size, pack, packed_shape
from cprune_rl.compiler.kernels.window import Window
from cprune_rl.compiler.kernels.winograd import supports_winograd
from cprune_rl.compiler.tuning.schedule import random_candidates
from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import Scheme
from cprune_rl.cost_cache.archive.safe_traces import trace_problem
from cprune_rl.pruning.scheme_masks import find_patterns, scheme_mask
from tests.conftest import Lowered

DENSITIES = (0.1, 0.25, 0.5, 1.0)
TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A convolution, and random values for it.

    Attributes:
        image: `(n, in, height, width)`.
        weights: `(out, in of a group, kh, kw)`.
        stride: both ways.
        padding: top, left, bottom, right.
        dilation: both ways.
        groups: of channels.
        seed: of the values.
    """

    image: tuple[int, int, int, int]
    weights: tuple[int, int, int, int]
    stride: int = 1
    padding: tuple[int, ...] = (1, 1, 1, 1)
    dilation: int = 1
    groups: int = 1
    seed: int = 0

    def window(self, layout: str) -> Window:
        return Window(
            kernel=self.weights[2:],
            stride=(self.stride, self.stride),
            padding=self.padding,
            dilation=(self.dilation, self.dilation),
            layout=layout,
        )

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        image = rng.standard_normal(self.image).astype(np.float32)
        return image, rng.standard_normal(self.weights).astype(np.float32)

    def torchs(self, image: np.ndarray, weights: np.ndarray) -> np.ndarray:
        top, left, bottom, right = self.padding
        padded = functional.pad(torch.from_numpy(image), (left, right, top, bottom))
        result = functional.conv2d(
            padded,
            torch.from_numpy(weights),
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
        )
        return result.numpy()

    def implementation(self, layout: str = "NHWC", uses_winograd: bool = False) -> Implementation:
        return implement_convolution(
            self.weights,
            self.window(layout),
            n_channels=self.image[1],
            is_grouped=self.groups > 1,
            lanes=8,
            uses_winograd=uses_winograd,
        )


def compute(implementation: Implementation, data: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compile an implementation and run it."""
    arrays = [data]
    for packing in implementation.packings:
        packed = packing.compute(weights)
        assert packed.shape == packing.shape
        assert str(packed.dtype) == (packing.dtype or "float32")
        arrays.append(packed)
    tensors = [te.placeholder(a.shape, dtype=str(a.dtype), name="argument") for a in arrays]
    out = implementation.compute(*tensors)
    function = te.create_prim_func([*tensors, out]).with_attr("global_symbol", "main")
    result = tvm.runtime.tensor(np.zeros([int(d) for d in out.shape], np.float32))
    arguments = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays]
    compiled = tvm.compile(tvm.IRModule({"main": function}), target=make_target(1))
    compiled.mod["main"](*arguments, result)
    return np.asarray(result.numpy())


# --- dense layers


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
    "case",
    [
        Case(image=(1, 5, 9, 9), weights=(41, 5, 3, 3)),
        Case(image=(1, 8, 9, 9), weights=(16, 8, 3, 3), stride=2),
        Case(image=(1, 3, 9, 9), weights=(7, 3, 1, 1), padding=(0, 0, 0, 0)),
        Case(image=(1, 4, 9, 9), weights=(20, 4, 3, 3), padding=(2, 2, 2, 2), dilation=2),
    ],
)
def test_a_packed_convolution_computes_what_torch_computes(layout: str, case: Case) -> None:
    image, weights = case.values()
    implementation = case.implementation(layout)
    assert implementation.name == PACKED
    data = image if layout == "NCHW" else image.transpose(TO_NHWC)
    result = compute(implementation, data, weights).transpose(TO_NCHW)
    np.testing.assert_allclose(result, case.torchs(image, weights), atol=1e-4)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (Case(image=(1, 6, 8, 8), weights=(6, 1, 3, 3), stride=2, groups=6), DEPTHWISE),
        (Case(image=(1, 6, 8, 8), weights=(12, 1, 3, 3), groups=6), GROUPED),
        (Case(image=(1, 6, 8, 8), weights=(4, 3, 3, 3), groups=2), GROUPED),
    ],
)
def test_a_convolution_in_groups_computes_what_torch_computes(case: Case, name: str) -> None:
    image, weights = case.values()
    implementation = case.implementation(uses_winograd=True)
    assert implementation.name == name
    result = compute(implementation, image.transpose(TO_NHWC), weights).transpose(TO_NCHW)
    np.testing.assert_allclose(result, case.torchs(image, weights), atol=1e-4)


@pytest.mark.parametrize(
    "case",
    [
        Case(image=(1, 16, 8, 8), weights=(24, 16, 3, 3)),
        Case(image=(2, 3, 9, 6), weights=(17, 3, 3, 3), padding=(0, 2, 1, 0)),
        Case(image=(1, 5, 3, 3), weights=(4, 5, 3, 3), padding=(0, 0, 0, 0)),
    ],
)
def test_winograds_filtering_computes_what_torch_computes(case: Case) -> None:
    image, weights = case.values()
    implementation = case.implementation(uses_winograd=True)
    assert implementation.name == WINOGRAD
    result = compute(implementation, image.transpose(TO_NHWC), weights).transpose(TO_NCHW)
    expected = case.torchs(image, weights)
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("case", "layout", "expected"),
    [
        (Case(image=(1, 4, 8, 8), weights=(4, 4, 3, 3)), "NHWC", True),
        (Case(image=(1, 4, 8, 8), weights=(4, 4, 3, 3)), "NCHW", False),
        (Case(image=(1, 4, 8, 8), weights=(4, 4, 3, 3), stride=2), "NHWC", False),
        (Case(image=(1, 4, 8, 8), weights=(4, 4, 1, 3)), "NHWC", False),
        (Case(image=(1, 4, 8, 8), weights=(4, 4, 3, 3), dilation=2), "NHWC", False),
    ],
)
def test_only_dense_3x3_windows_over_nhwc_can_be_filtered(
    case: Case, layout: str, expected: bool
) -> None:
    assert supports_winograd(case.window(layout)) == expected


def test_the_transforms_of_winograds_filtering_are_unrolled_and_vectorised(
    lowered: Lowered,
) -> None:
    variant = lowered.variants.all[2]
    task = variant.lowered(lowered.network.dense).task(variant.calls[1])
    for candidate in random_candidates(task, make_target(1), 3, seed=0):
        unrolled = re.findall(r"in T.unroll\((?:T.int64\()?(\d+)", candidate.module.script())
        assert unrolled.count("6") >= 2
        assert unrolled.count("4") >= 2
        assert candidate.trace.tile_factors("NHWC"), "the channel loop of the products"


# --- layers that are pruned by a scheme


def masked(weights: np.ndarray, scheme: Scheme) -> np.ndarray:
    tensor = torch.from_numpy(weights)
    return (tensor * scheme_mask(tensor, scheme, find_patterns([]))).numpy()


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """Square kernels of 1 or 3, over maps of about their size."""
    kernel, stride, dilation = draw(
        st.tuples(st.sampled_from((1, 3)), st.integers(1, 2), st.integers(1, 2))
    )
    n_in = draw(st.integers(1, 9))
    size = kernel * dilation + stride
    return Case(
        image=(1, n_in, size, size),
        weights=(draw(st.integers(1, 13)), n_in, kernel, kernel),
        stride=stride,
        padding=(draw(st.integers(0, 1)),) * 4,
        dilation=dilation,
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=25, deadline=None)
@given(
    convolutions(),
    st.builds(Scheme, st.just("block"), st.integers(1, 5), st.sampled_from(DENSITIES)),
    st.sampled_from(("NCHW", "NHWC")),
)
def test_a_block_sparse_convolution_is_torchs_of_the_masked_weights(
    case: Case, scheme: Scheme, layout: str
) -> None:
    image, weights = case.values()
    pruned = masked(weights, scheme)
    data = image if layout == "NCHW" else image.transpose(TO_NHWC)
    implementation = implement_pruned_convolution(
        case.weights,
        case.window(layout),
        scheme=scheme,
        map_shape=data.shape,
        uses_winograd=True,
    )
    assert implementation.name == BLOCK_SPARSE
    result = compute(implementation, data, pruned)
    expected = case.torchs(image, pruned)
    assert np.abs(expected).max() > 0
    in_layout = expected if layout == "NCHW" else expected.transpose(TO_NHWC)
    np.testing.assert_allclose(result, in_layout, atol=1e-4)


@st.composite
def winograd_convolutions(draw: st.DrawFn) -> Case:
    """3x3 kernels with uneven padding over maps that the padded kernel fits in."""
    top, left, bottom, right = padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    height = draw(st.integers(max(1, 3 - top - bottom), 9))
    width = draw(st.integers(max(1, 3 - left - right), 9))
    n_in = draw(st.integers(1, 9))
    return Case(
        image=(draw(st.integers(1, 2)), n_in, height, width),
        weights=(draw(st.integers(1, 13)), n_in, 3, 3),
        padding=padding,
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=20, deadline=None)
@given(
    winograd_convolutions(),
    st.builds(Scheme, st.just("kernel"), st.integers(1, 20), st.sampled_from(DENSITIES)),
)
def test_a_sparse_winograd_convolution_is_torchs_of_the_masked_weights(
    case: Case, scheme: Scheme
) -> None:
    image, weights = case.values()
    pruned = masked(weights, scheme)
    data = image.transpose(TO_NHWC)
    implementation = implement_pruned_convolution(
        case.weights,
        case.window("NHWC"),
        scheme=scheme,
        map_shape=data.shape,
        uses_winograd=True,
    )
    assert implementation.name == SPARSE_WINOGRAD
    result = compute(implementation, data, pruned).transpose(TO_NCHW)
    expected = case.torchs(image, pruned)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_a_block_sparse_layer_over_rows_is_torchs_of_the_masked_weights() -> None:
    rng = np.random.default_rng(0)
    scheme = Scheme("block", 4, 0.25)
    pruned = masked(rng.standard_normal((10, 24)).astype(np.float32), scheme)
    rows = rng.standard_normal((2, 24)).astype(np.float32)
    result = compute(implement_pruned_dense((10, 24), scheme), rows, pruned)
    np.testing.assert_allclose(result, rows @ pruned.T, atol=1e-5)


def test_what_a_trial_reads_is_pruned_as_the_layer_would_be() -> None:
    weights = np.random.default_rng(0).standard_normal((10, 8, 3, 3)).astype(np.float32)
    blocks = BlockSparseFormat(shape=weights.shape, block=4, n_kept=27, unit=9)
    kernels = (blocks.prune_at_random(weights) != 0).reshape(10, 8, 9)
    assert (kernels.all(2) == kernels.any(2)).all(), "whole kernels"
    assert (kernels.any(2).sum(1) == 3).all()
    assert len(np.unique(kernels.any(2), axis=0)) == 3, "others in each block"
    with pytest.raises(ValueError, match="holds 8 kernels, not 3"):
        blocks.kept(weights)


@pytest.mark.parametrize(("block", "lanes"), [(8, 8), (1 << 20, 32)])
def test_sums_of_sparse_winograd_products_are_vectors_and_their_schedules_can_be_recorded(
    lowered: Lowered, block: int, lanes: int
) -> None:
    variant = lowered.variants.all[2]
    layer = "blocks.2.conv2"
    scheme = Scheme("kernel", block, 0.25)
    module = variant.lowered(Plan(lowered.network.dense.widths, ((layer, str(scheme)),)))
    task = module.task(module.calls[variant.network.scheme_layers[layer]])
    update = (
        r'in T.vectorized\(T.int64\((\d+)\)\):\n\s+with T.sblock\("conv2d_winograd_sparse_update'
    )
    for candidate in random_candidates(task, make_target(1), 3, seed=0):
        assert re.findall(update, candidate.module.script()) == [str(lanes)]
        assert candidate.trace.tile_factors("NHWC"), "the loop over blocks"
        assert trace_problem(candidate.trace.json) is None


# --- names


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("nn.conv2d(a0,a1){strides=[1, 1]" + family_attribute(WINOGRAD, "NHWC") + "}", WINOGRAD),
        ("matmul(a0,a1){" + family_attribute(BLOCK_SPARSE, "") + "}", BLOCK_SPARSE),
        ("nn.conv2d(a0,a1){strides=[1, 1]}", ""),
    ],
)
def test_an_implementation_is_read_off_a_family(family: str, name: str) -> None:
    assert implementation_of(family) == name


def test_the_names_in_cost_caches_of_0_2_are_todays() -> None:
    names = (PACKED, DEPTHWISE, GROUPED, WINOGRAD, BLOCK_SPARSE, SPARSE_WINOGRAD)
    assert names == (
        "packed1",
        "depthwise1",
        "grouped1",
        "winograd2",
        "block3",
        "winogradkernel1",
    )
    assert family_attribute("packed1", "NHWC") == ", form=packed1 from NHWC"
