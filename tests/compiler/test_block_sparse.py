"""Layers pruned in blocks, by kernels and by patterns:

what they compute, alone and in a whole network, and which entries they keep.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from tvm import te

from cprune_rl.compiler.deploy.build import build_network, run_library
from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.kernels.block_sparse import (
    BlockSparseFormat,
    block_sparse_conv2d,
    block_sparse_dense,
    entry_strides,
)
from cprune_rl.compiler.kernels.implementations import SPARSE_WINOGRAD, implementation_of
from cprune_rl.compiler.kernels.window import Window
from cprune_rl.compiler.kernels.winograd_sparse import (
    channel_table,
    pack_kernels,
    packed_kernels_shape,
    sparse_winograd_conv2d,
)
from cprune_rl.compiler.tuning.budget import TuningBudget, TuningSettings
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.compiler.tuning.schedule import random_candidates
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.network_json import network_from_json, network_to_json
from cprune_rl.core.scheme import Scheme
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache import open_store
from cprune_rl.cost_cache.archive.safe_traces import trace_problem
from cprune_rl.errors import ModelError, PlanError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.pruning.scheme_masks import (
    N_PATTERNS,
    apply_masks,
    bake_masks,
    find_patterns,
    increase_sparsity,
    satisfies_scheme,
    scheme_mask,
)
from cprune_rl.pruning.surgery import prune
from cprune_rl.testing import AnalyticLatency, toy_network
from tests.conftest import Lowered

TINY = TuningSettings(
    survey=TuningBudget(n_pool=1, n_random=1, n_max=1),
    dense=TuningBudget(n_pool=1, n_random=1, n_max=1),
    near=TuningBudget(n_pool=1, n_random=1, n_max=1),
    transpose=TuningBudget(n_pool=0, n_random=1, n_max=1),
    n_shared=1,
)
DENSITIES = (0.1, 0.25, 0.5, 1.0)


def run(
    inputs: list[np.ndarray], result: tuple[int, ...], made: tuple[list[te.Tensor], te.Tensor]
) -> np.ndarray:
    placeholders, out = made
    module = tvm.IRModule(
        {"main": te.create_prim_func([*placeholders, out]).with_attr("global_symbol", "main")}
    )
    values = [
        tvm.runtime.tensor(np.ascontiguousarray(v)) for v in (*inputs, np.zeros(result, np.float32))
    ]
    tvm.compile(module, target="llvm").mod["main"](*values)
    return np.asarray(values[-1].numpy())


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 13), st.integers(1, 5), st.sampled_from((1, 3)), st.sampled_from((1, 2)), st.sampled_from(DENSITIES),
    st.sampled_from(("NCHW", "NHWC")), st.integers(0, 1), st.integers(1, 2), st.integers(0, 99),
)  # fmt: skip
def test_a_block_sparse_convolution_is_torchs_of_the_masked_weights(
    n_in: int,
    n_out: int,
    block: int,
    kernel: int,
    stride: int,
    density: float,
    layout: str,
    padding: int,
    dilation: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    size = kernel * dilation + stride
    scheme = Scheme("block", block, density)
    weights = torch.from_numpy(
        rng.standard_normal((n_out, n_in, kernel, kernel)).astype(np.float32)
    )
    masked = weights * scheme_mask(weights, scheme, find_patterns([]))
    image = torch.from_numpy(rng.standard_normal((1, n_in, size, size)).astype(np.float32))
    expected = functional.conv2d(
        image, masked, stride=stride, padding=padding, dilation=dilation
    ).numpy()
    data = image.numpy() if layout == "NCHW" else image.numpy().transpose(0, 2, 3, 1)
    blocks = BlockSparseFormat(
        shape=tuple(weights.shape), block=min(block, n_out), n_kept=scheme.n_kept(n_in * kernel**2)
    )
    window = Window(
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(padding,) * 4,
        dilation=(dilation, dilation),
        layout=layout,
    )
    inputs = [
        data,
        blocks.pack(masked.numpy()),
        blocks.offsets(masked.numpy(), entry_strides(window, data.shape)),
    ]
    tensors = [
        te.placeholder(v.shape, dtype=str(v.dtype), name=n)
        for v, n in zip(inputs, ("data", "weights", "offsets"), strict=True)
    ]
    wanted = expected if layout == "NCHW" else expected.transpose(0, 2, 3, 1)
    found = run(
        inputs,
        wanted.shape,
        (tensors, block_sparse_conv2d(*tensors, channels=n_out, window=window)),
    )
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.abs(expected).max() > 0


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 13), st.integers(1, 20),
    st.sampled_from(DENSITIES), st.tuples(*[st.integers(0, 2)] * 4), st.integers(0, 99),
)  # fmt: skip
def test_a_sparse_winograd_convolution_is_torchs_of_the_masked_weights(
    n: int,
    height: int,
    width: int,
    n_in: int,
    n_out: int,
    block: int,
    density: float,
    padding: tuple[int, int, int, int],
    seed: int,
) -> None:
    top, left, bottom, right = padding
    height, width = max(height, 3 - top - bottom), max(width, 3 - left - right)
    rng = np.random.default_rng(seed)
    scheme = Scheme("kernel", block, density)
    weights = torch.from_numpy(rng.standard_normal((n_out, n_in, 3, 3)).astype(np.float32))
    masked = weights * scheme_mask(weights, scheme, find_patterns([]))
    image = torch.from_numpy(rng.standard_normal((n, n_in, height, width)).astype(np.float32))
    expected = (
        functional.conv2d(functional.pad(image, (left, right, top, bottom)), masked)
        .numpy()
        .transpose(0, 2, 3, 1)
    )
    blocks = BlockSparseFormat(
        shape=tuple(weights.shape), block=min(block, n_out), n_kept=scheme.n_kept(n_in * 9), unit=9
    )
    inputs = [
        image.numpy().transpose(0, 2, 3, 1),
        pack_kernels(masked.numpy(), blocks),
        channel_table(masked.numpy(), blocks),
    ]
    assert inputs[1].shape == packed_kernels_shape(blocks)
    tensors = [
        te.placeholder(v.shape, dtype=str(v.dtype), name=n)
        for v, n in zip(inputs, ("data", "weights", "table"), strict=True)
    ]
    found = run(
        inputs,
        expected.shape,
        (tensors, sparse_winograd_conv2d(*tensors, channels=n_out, padding=padding)),
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(expected).max() > 0


def test_what_a_trial_reads_is_pruned_as_the_layer_would_be() -> None:
    weights = np.random.default_rng(0).standard_normal((10, 8, 3, 3)).astype(np.float32)
    drawn = (
        BlockSparseFormat(shape=weights.shape, block=4, n_kept=27, unit=9).prune_at_random(weights)
        != 0
    )
    kernels = drawn.reshape(10, 8, 9)
    assert (kernels.all(2) == kernels.any(2)).all(), "whole kernels"
    assert (kernels.any(2).sum(1) == 3).all()
    assert len(np.unique(kernels.any(2), axis=0)) == 3, "others in each block"
    with pytest.raises(ValueError, match="holds 8 kernels, not 3"):
        BlockSparseFormat(shape=weights.shape, block=4, n_kept=27, unit=9).kept(weights)


def test_a_block_sparse_layer_over_rows_is_torchs_of_the_masked_weights() -> None:
    weights = torch.randn(10, 24)
    scheme = Scheme("block", 4, 0.25)
    masked = weights * scheme_mask(weights, scheme, find_patterns([]))
    rows = torch.randn(2, 24)
    blocks = BlockSparseFormat(shape=(10, 24), block=4, n_kept=scheme.n_kept(24))
    inputs = [rows.numpy(), blocks.pack(masked.numpy()), blocks.offsets(masked.numpy(), (1,))]
    tensors = [
        te.placeholder(v.shape, dtype=str(v.dtype), name=n)
        for v, n in zip(inputs, ("data", "weights", "offsets"), strict=True)
    ]
    found = run(inputs, (2, 10), (tensors, block_sparse_dense(*tensors, channels=10)))
    np.testing.assert_allclose(found, functional.linear(rows, masked).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("block", "density"), [(1, 0.3), (4, 0.25), (8, 0.5), (100, 0.2), (3, 1.0)]
)
def test_each_block_keeps_its_largest_entries_the_same_number_in_each(
    block: int, density: float
) -> None:
    weight = torch.randn(16, 6, 3, 3)
    mask = scheme_mask(weight, Scheme("block", block, density), find_patterns([]))
    n_kept = max(1, round(54 * density))
    for first in range(0, 16, min(block, 16)):
        of_block = mask[first : first + block].reshape(-1, 54)
        assert (of_block == of_block[0]).all(), "the channels of a block keep the same"
        assert int(of_block[0].sum()) == n_kept
        scores = (weight[first : first + block] ** 2).reshape(-1, 54).sum(0)
        kept = of_block[0].bool()
        assert kept.all() or scores[kept].min() >= scores[~kept].max()


def test_each_block_keeps_its_largest_kernels_whole_and_the_same_number_in_each() -> None:
    weight, scheme = torch.randn(16, 10, 3, 3), Scheme("kernel", 4, 0.3)
    assert scheme.n_kept(90) == 27
    kernels = scheme_mask(weight, scheme, find_patterns([])).reshape(4, 4, 10, 9)
    assert (kernels == kernels[:, :1, :, :1]).all(), (
        "a kernel is kept by the whole block, with all of its entries"
    )
    kept = kernels[:, 0, :, 0].bool()
    assert (kept.sum(1) == 3).all()
    scores = (weight**2).reshape(4, 4, 10, 9).sum((1, 3))
    assert all(
        of_block[k].min() >= of_block[~k].max() for of_block, k in zip(scores, kept, strict=True)
    )
    with pytest.raises(PlanError, match="3x3"):
        scheme_mask(torch.randn(4, 4, 1, 1), scheme, find_patterns([]))


def test_weights_with_a_zero_inside_a_kept_kernel_hold_to_their_scheme_and_those_with_a_kernel_more_do_not() -> (
    None
):
    weight, scheme = torch.randn(8, 4, 3, 3), Scheme("kernel", 4, 0.5)
    masked = weight * scheme_mask(weight, scheme, find_patterns([]))
    masked[masked != 0] *= (torch.arange(int((masked != 0).sum())) % 5 > 0).float()
    assert satisfies_scheme(masked, scheme)
    assert not satisfies_scheme(
        weight * scheme_mask(weight, Scheme("block", 4, 0.5), find_patterns([])), scheme
    ), "as many entries, of more kernels"


def test_a_kernel_keeps_a_pattern_or_nothing() -> None:
    weight = torch.randn(12, 10, 3, 3)
    patterns = find_patterns([weight])
    assert len(patterns) == N_PATTERNS
    assert (patterns.sum(1) == 4).all()
    assert (patterns[:, 4] == 1).all(), "the centre is in each"
    kernels = scheme_mask(weight, Scheme("pattern", 1, 0.3), patterns).reshape(12, 10, 9)
    kept = kernels.sum(2) > 0
    assert (kept.sum(1) == round(90 * 0.3 / 4)).all(), "as many kernels for each output channel"
    assert all(any((k == p).all() for p in patterns) for k in kernels[kept])
    with pytest.raises(PlanError, match="3x3"):
        scheme_mask(torch.randn(4, 4, 1, 1), Scheme("pattern", 1, 0.25), patterns)


def test_what_is_pruned_stays_so_while_the_network_learns_and_after() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    schemes = {"0": Scheme("block", 4, 0.25), "3": Scheme("block", 1, 0.1)}
    held = apply_masks(model, schemes)
    optimiser = torch.optim.SGD(held.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        held(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimiser.step()
    plain = bake_masks(held)
    assert set(plain.state_dict()) == set(model.state_dict()), "saved as any network"
    for name, scheme in schemes.items():
        weight = plain.get_submodule(name).weight
        held_entries = (weight != 0).sum().item()
        assert 0 < held_entries <= scheme.n_kept(weight[0].numel()) * weight.shape[0]
        assert not torch.equal(weight, model.get_submodule(name).weight)
    image = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(plain(image), held(image))
    with pytest.raises(PlanError, match="'1'"):
        apply_masks(model, {"1": schemes["0"]})


@pytest.mark.parametrize("channels_in", [8, 20, 80])
@pytest.mark.parametrize(
    ("kind", "density"),
    [
        ("block", 0.2),
        ("block", 0.9),
        ("block", 0.175),
        ("kernel", 0.25),
        ("kernel", 0.01),
        ("kernel", 0.175),
        ("pattern", 0.2),
        ("pattern", 0.175),
        ("pattern", 0.4444),
    ],
)
def test_a_layer_that_is_tightened_loses_entries_until_it_holds_to_its_scheme(
    kind: str, density: float, channels_in: int
) -> None:
    model, schemes = nn.Sequential(nn.Conv2d(channels_in, 8, 3)), {"0": Scheme(kind, 4, density)}
    held = apply_masks(model, schemes)
    left = []
    for share in (0.0, 0.3, 0.6, 1.0):
        increase_sparsity(held, schemes, share)
        left.append(int(bake_masks(held).get_submodule("0").weight.count_nonzero()))
    assert left[0] == model[0].weight.numel()
    assert left == sorted(left, reverse=True)
    assert left[-1] == schemes["0"].n_kept(9 * channels_in) * 8, (
        "also where the density is half an entry off"
    )
    assert 0 < left[-1] < left[0]
    assert satisfies_scheme(bake_masks(held).get_submodule("0").weight, schemes["0"])
    assert not satisfies_scheme(model[0].weight, schemes["0"])


@pytest.mark.parametrize(
    "text",
    [
        "block(8)",
        "block(8,0)",
        "block(0,0.5)",
        "blok(8,0.5)",
        "block(8,1.5)",
        "pattern(4,0.5)",
        "kernel(8,2)",
        "",
    ],
)
def test_what_is_no_scheme_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        Scheme.parse(text)
    assert [str(Scheme.parse(t)) for t in ("block(8,0.25)", "kernel(16,0.125)")] == [
        "block(8,0.25)",
        "kernel(16,0.125)",
    ]


def test_a_schemes_task_has_its_own_key_and_what_is_left_to_compute(lowered: Lowered) -> None:
    network = lowered.network
    layers = list(network.scheme_layers)
    assert {"fc", "blocks.1.conv2", "blocks.1.downsample.0"} <= set(layers)
    assert "conv1" not in layers, "the layer that reads the image stays dense"
    dense, pruned = (
        network.dense,
        Plan(network.dense.widths, tuple((layer, "block(8,0.25)") for layer in layers)),
    )
    for at, (before, after) in enumerate(
        zip(network.workloads(dense), network.workloads(pruned), strict=True)
    ):
        if at in network.scheme_layers.values():
            assert after.is_block_sparse
            assert after.key != before.key
            assert after.macs == pytest.approx(before.macs / 4, rel=0.05)
        else:
            assert after == before
    assert network_from_json(network_to_json(network)) == network
    assert Plan(dense.widths, tuple(reversed(pruned.schemes))) == pruned, (
        "the order in which layers are named is no difference"
    )
    for layer, scheme in (
        ("fc", "pattern(4,0.25)"),
        ("fc", "kernel(4,0.25)"),
        ("blocks.1.downsample.0", "kernel(4,0.25)"),
    ):
        with pytest.raises(PlanError, match="no 3x3 kernels"):
            network.workloads(Plan(dense.widths, ((layer, scheme),)))
    with pytest.raises(PlanError, match="conv1"):
        network.workloads(Plan(dense.widths, (("conv1", "block(8,0.25)"),)))


def test_whole_kernels_are_other_tasks_than_blocks_and_computed_by_winograds_form_where_it_is_taken(
    lowered: Lowered,
) -> None:
    plain, packed, winograd = (variant.network for variant in lowered.variants.all)
    at, strided = (plain.scheme_layers[layer] for layer in ("blocks.1.conv2", "blocks.1.conv1"))

    def task(network: Network, subgraph: int, scheme: str) -> Workload:
        return network.workloads(
            Plan(network.dense.widths, ((network.subgraphs[subgraph].name, scheme),))
        )[subgraph]

    kernels, blocks = "kernel(8,0.25)", "block(8,0.25)"
    sparse = task(winograd, at, kernels)
    assert implementation_of(sparse.family) == SPARSE_WINOGRAD
    assert sparse.is_block_sparse
    assert sparse.block == 8
    assert (
        sparse.macs
        == task(packed, at, kernels).macs
        == pytest.approx(packed.workloads(packed.dense)[at].macs / 4)
    )
    assert task(winograd, at, blocks) == task(packed, at, blocks) != task(packed, at, kernels)
    assert task(packed, at, blocks).macs == task(packed, at, kernels).macs
    assert len({task(network, at, kernels).family for network in (plain, packed, winograd)}) == 3
    assert task(winograd, strided, kernels) == task(packed, strided, kernels)
    for network in (plain, packed, winograd):
        assert network_from_json(network_to_json(network)) == network
        written = [s["blocked"] for s in network_to_json(network)["subgraphs"] if "blocked" in s]
        assert any("of_kernels" in b for b in written) == (network is winograd), (
            "recordings of before have no such thing"
        )


@pytest.mark.parametrize(("block", "lanes"), [(8, 8), (1 << 20, 32)])
def test_sums_of_sparse_winograd_products_are_vectors_and_their_programs_can_be_handed_over(
    lowered: Lowered, block: int, lanes: int
) -> None:
    variant, layer = lowered.variants.all[2], "blocks.2.conv2"
    at, scheme = variant.network.scheme_layers[layer], Scheme("kernel", block, 0.25)
    plan = Plan(lowered.network.dense.widths, ((layer, str(scheme)),))
    module = variant.lowered(plan)
    task = module.task(module.calls[at])
    for candidate in random_candidates(task, make_target(1), 3, seed=0):
        (products,) = re.findall(
            r"in T.vectorized\(T.int64\((\d+)\)\):\n\s+with T.sblock\(\"conv2d_winograd_sparse_update",
            candidate.module.script(),
        )
        assert int(products) == lanes
        assert candidate.trace.tile_factors("NHWC"), "the loop over blocks"
        assert trace_problem(candidate.trace.json) is None


def test_a_density_that_was_not_timed_is_estimated_between_those_that_were() -> None:
    network = toy_network()
    true, model = AnalyticLatency(network), LatencyInterpolator()
    plans = {
        density: Plan(network.dense.widths, (("conv1", f"block(8,{density})"),))
        for density in (0.5, 0.25, 0.125)
    }
    for plan in (network.dense, plans[0.5], plans[0.125]):
        for workload, cost in zip(network.workloads(plan), true.measure(plan), strict=True):
            model.learn(workload, cost)
    workload = network.workloads(plans[0.25])[1]
    (found,) = model.predict([workload])
    assert not found.is_measured
    assert found.latency_s == pytest.approx(true.predict([workload])[0].latency_s, rel=0.1)


@pytest.mark.slow
def test_a_network_pruned_by_channels_and_in_blocks_computes_what_torch_computes(
    lowered: Lowered, device: LocalDevice, tmp_path: pytest.TempPathFactory
) -> None:
    network, store = lowered.network, open_store(None)
    tuner = NetworkTuner(lowered.variants, device, store, TINY)
    tuner.tune_dense()
    kinds = (
        "block(8,0.25)",
        "kernel(8,0.25)",
        "block(1,0.5)",
        "kernel(5,0.5)",
        "block(64,0.3)",
        "pattern(4,0.3)",
    )
    layers = [
        layer
        for layer in network.scheme_layers
        if network.subgraphs[network.scheme_layers[layer]].template.operator.kernel == 3
    ]
    schemes = tuple((layer, kinds[at % len(kinds)]) for at, layer in enumerate(layers))
    plan = Plan(network.uniform(0.75).widths, (*schemes, ("fc", "block(5,0.5)")))
    costs = tuner.measure(plan)
    assert [c.error for c in costs if c.error] == []
    for at in network.schemes(plan):
        for workload in lowered.variants.workloads(plan)[at]:
            check = tuner._load(workload, plan)[1]
            assert check is not None
            (table,) = check.tables().values()
            assert len(np.unique(table)) > 1, "what is timed reads what the layer would read"
    narrow = prune(lowered.model, lowered.coupled, plan)
    model = bake_masks(apply_masks(narrow, network.schemes_by_layer(plan))).eval()
    library, image = tmp_path / "pruned.so", torch.randn(1, 3, 32, 32)
    build_network(tuner, plan, model, path=library)
    with torch.no_grad():
        expected = model(image).numpy()
    np.testing.assert_allclose(run_library(library, image.numpy()), expected, atol=1e-4)
    with pytest.raises(ModelError, match="holds"):
        build_network(tuner, plan, narrow, path=tmp_path / "whole.so")
    before = tuner.spending.fresh_trials
    tuner.measure(Plan(plan.widths, tuple((layer, text) for layer, text in plan.schemes)))
    assert tuner.spending.fresh_trials == before
    store.close()
