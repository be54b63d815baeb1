"""A network lowered at any plan: its tasks, and what they depend on."""

from __future__ import annotations

import json

import pytest
import torch
import tvm
from torch import nn
from torch.nn import functional
from tvm_ffi import structural_equal, structural_hash

from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.export.block_names import rename_traced_blocks
from cprune_rl.compiler.export.describe import describe_network
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.export.reshapes import ReshapeAxes, broadcast_target
from cprune_rl.compiler.export.weight_sources import state_arrays
from cprune_rl.compiler.kernels.implementations import SPARSE_WINOGRAD, implementation_of
from cprune_rl.compiler.layouts.variants import LayoutVariant
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.network_json import network_from_json, network_to_json
from cprune_rl.core.workload import Workload
from cprune_rl.errors import ModelError, PlanError
from cprune_rl.models.registry import build_model
from cprune_rl.models.zoo import MODELS
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.conftest import Lowered, lower, lower_anew


def task_modules(variant: LayoutVariant, plan: Plan) -> dict[str, tvm.IRModule]:
    """The function of each distinct task of a plan, by the workload's key."""
    lowered = variant.lowered(plan)
    keys = [workload.key for workload in variant.network.workloads(plan)]
    return {key: lowered.task(call) for key, call in zip(keys, lowered.calls, strict=True)}


def exported_tasks(model: nn.Module, example: torch.Tensor) -> set[int]:
    """Hashes of the tasks of a network as it is, exported at its own shapes."""
    lowered = ExportedNetwork.export(model, example, {}, make_target(1)).lowered({})
    return {structural_hash(lowered.task(call)) for call in lowered.calls}


# --- tasks


def test_the_same_network_gives_the_same_description_twice(lowered: Lowered) -> None:
    assert lower_anew("resnet8-w8").network == lowered.network


def test_every_task_knows_its_layers(lowered: Lowered) -> None:
    layers = [layer for s in lowered.network.subgraphs for layer in s.layers]
    modules = lowered.model.named_modules()
    assert sorted(layers) == sorted(n for n, m in modules if isinstance(m, (nn.Conv2d, nn.Linear)))


@pytest.mark.parametrize("name", ["resnet8-w8", "vgg-small"])
def test_a_plan_has_the_tasks_of_the_pruned_network_exported_again(name: str) -> None:
    network = lower(name)
    plan = network.network.uniform(0.6)
    tasks = task_modules(network.variants.all[0], plan)
    pruned = prune(network.model, network.coupled, plan)
    assert {structural_hash(m) for m in tasks.values()} == exported_tasks(pruned, network.example)


def test_equal_keys_are_equal_functions_across_networks(lowered: Lowered) -> None:
    model = build_model("resnet20", 10).eval()
    example = torch.zeros(MODELS["resnet20"].input_shape)
    coupled = find_groups(model, example)
    exported = ExportedNetwork.export(model, example, coupled.axes, make_target(1), coupled.written)
    other = describe_network("resnet20", exported, coupled.groups, with_schemes=False)
    halved = Plan(tuple(g.channels // 2 for g in other.groups))
    tasks = task_modules(lowered.variants.all[0], lowered.network.dense)
    of_other = task_modules(LayoutVariant(exported, other), halved)
    shared = set(tasks) & set(of_other)
    assert len(shared) >= 4
    assert all(structural_equal(tasks[key], of_other[key]) for key in shared)


def test_depthwise_convolutions_keep_their_channels_per_group() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(256, 5),
    ).eval()
    example = torch.zeros(1, 3, 8, 8)
    coupled = find_groups(model, example)
    exported = ExportedNetwork.export(model, example, coupled.axes, make_target(1), coupled.written)
    network = describe_network("depthwise", exported, coupled.groups)
    operators = [s.template.operator.name for s in network.subgraphs if s.layers]
    assert operators == ["conv2d", "depthwise", "conv2d", "dense"]
    plan = network.uniform(0.5)
    tasks = task_modules(LayoutVariant(exported, network), plan)
    pruned = prune(model, coupled, plan)
    assert {structural_hash(m) for m in tasks.values()} == exported_tasks(pruned, example)


class Dynamic(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_does_not_export_is_an_error_of_ours() -> None:
    with pytest.raises(ModelError, match="cannot"):
        ExportedNetwork.export(Dynamic(), torch.zeros(1, 3, 8, 8), {}, make_target(1))


class Awkward(nn.Module):
    """Operators that are written otherwise after the import, and a mean counted from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low, high = functional.relu6(self.conv(x)).chunk(2, dim=1)
        return (low * high).mean((-1, -2))[:, 1:][:, -1:]


def test_clips_splits_and_axes_from_the_end_have_one_way_to_be_written() -> None:
    model = Awkward().eval()
    example = torch.zeros(1, 3, 8, 8)
    lowered = ExportedNetwork.export(model, example, {}, make_target(1)).lowered({})
    operators = [operator for call in lowered.calls for operator in call.operators]
    names = {operator.name for operator in operators}
    assert {"nn.relu", "minimum"} <= names, "a maximum with zero is called a ReLU"
    assert not names & {"clip", "split"}
    (mean,) = (operator for operator in operators if operator.name == "mean")
    assert "axis=(2, 3)" in mean.attributes


def test_reductions_in_a_trace_are_named_by_their_order() -> None:
    instructions = [
        ["GetSBlock", [], ["lv36_red", "main"], ["b0"]],
        ["GetLoops", ["b0"], [], ["l0"]],
        ["GetSBlock", [], ["lv7_red", "main"], ["b1"]],
        ["GetSBlock", [], ["lv36_red", "main"], ["b2"]],
        ["GetSBlock", [], ["conv2d_nchw", "main"], ["b3"]],
    ]
    before = json.dumps(instructions)
    renamed = rename_traced_blocks(instructions)
    names = [attributes[0] for _, _, attributes, _ in renamed if attributes]
    assert names == ["reduced", "reduced_1", "reduced", "conv2d_nchw"]
    assert json.dumps(instructions) == before, "the trace that was given stays as it was"


# --- shapes that follow


@pytest.mark.parametrize(
    ("old_in", "old_out", "now", "target"),
    [
        ((1, 8, 4, 4), (1, 128), (1, 6, 4, 4), (1, 96)),
        ((1, 64, 24), (1, 64, 4, 6), (1, 64, 18), (1, 64, 3, 6)),
        ((1, 8, 4, 4), (1, 8, 16), (1, 8, 4, 4), (1, 8, 16)),
    ],
)
def test_one_axis_of_a_reshape_follows_its_input(
    old_in: tuple[int, ...], old_out: tuple[int, ...], now: tuple[int, ...], target: tuple[int, ...]
) -> None:
    assert ReshapeAxes({}).target("reshape", (old_in, old_out), now) == target


def test_the_axis_that_followed_once_follows_again() -> None:
    axes = ReshapeAxes({})
    # One head of four is taken away: only the axis of heads can be three quarters as long.
    assert axes.target("heads", ((1, 24), (4, 6)), (1, 18)) == (3, 6)
    # Of two heads less, the size of a head could be half as long as well.
    assert axes.target("heads", ((1, 24), (4, 6)), (1, 12)) == (2, 6)
    assert ReshapeAxes({"heads": 1}).target("heads", ((1, 24), (4, 6)), (1, 12)) == (4, 3)


def test_a_reshape_that_cannot_follow_is_an_error() -> None:
    with pytest.raises(ModelError, match="cannot follow"):
        ReshapeAxes({}).target("reshape", ((1, 12), (3, 4)), (1, 7))


def test_axes_of_a_broadcast_that_were_not_widened_follow_its_input() -> None:
    assert broadcast_target((8, 1), (2, 8, 5), (6, 1)) == (2, 6, 5)


# --- layers that are pruned by a scheme


def test_a_schemes_task_has_its_own_key_and_what_is_left_to_compute(lowered: Lowered) -> None:
    network = lowered.network
    layers = list(network.scheme_layers)
    assert {"fc", "blocks.1.conv2", "blocks.1.downsample.0"} <= set(layers)
    assert "conv1" not in layers, "the layer that reads the image stays dense"
    plan = Plan(network.dense.widths, tuple((layer, "block(8,0.25)") for layer in layers))
    pairs = zip(network.workloads(network.dense), network.workloads(plan), strict=True)
    for at, (before, after) in enumerate(pairs):
        if at in network.scheme_layers.values():
            assert after.is_block_sparse
            assert after.key != before.key
            assert after.macs == pytest.approx(before.macs / 4, rel=0.05)
        else:
            assert after == before
    assert network_from_json(network_to_json(network)) == network


def test_the_order_in_which_layers_are_named_is_no_difference(lowered: Lowered) -> None:
    widths = lowered.network.dense.widths
    schemes = (("fc", "block(8,0.25)"), ("blocks.1.conv2", "block(4,0.5)"))
    assert Plan(widths, schemes) == Plan(widths, tuple(reversed(schemes)))


@pytest.mark.parametrize(
    ("layer", "scheme", "reason"),
    [
        ("fc", "pattern(4,0.25)", "no 3x3 kernels"),
        ("fc", "kernel(4,0.25)", "no 3x3 kernels"),
        ("blocks.1.downsample.0", "kernel(4,0.25)", "no 3x3 kernels"),
        ("conv1", "block(8,0.25)", "conv1"),
    ],
)
def test_a_scheme_that_a_layer_cannot_have_is_refused(
    lowered: Lowered, layer: str, scheme: str, reason: str
) -> None:
    network = lowered.network
    with pytest.raises(PlanError, match=reason):
        network.workloads(Plan(network.dense.widths, ((layer, scheme),)))


def pruned_task(network: Network, layer: str, scheme: str) -> Workload:
    plan = Plan(network.dense.widths, ((layer, scheme),))
    return network.workloads(plan)[network.scheme_layers[layer]]


def test_whole_kernels_are_other_tasks_than_blocks_and_filtered_by_winograd_where_that_is_taken(
    lowered: Lowered,
) -> None:
    nchw, packed, winograd = (variant.network for variant in lowered.variants.all)
    layer = "blocks.1.conv2"
    kernels = [pruned_task(n, layer, "kernel(8,0.25)") for n in (nchw, packed, winograd)]
    blocks = [pruned_task(n, layer, "block(8,0.25)") for n in (nchw, packed, winograd)]
    filtered = kernels[2]
    assert implementation_of(filtered.family) == SPARSE_WINOGRAD
    assert filtered.is_block_sparse
    assert filtered.block == 8
    dense = packed.workloads(packed.dense)[packed.scheme_layers[layer]]
    assert filtered.macs == kernels[1].macs == blocks[1].macs == pytest.approx(dense.macs / 4)
    assert blocks[2] == blocks[1] != kernels[1]
    assert len({task.family for task in kernels}) == 3
    strided = [pruned_task(n, "blocks.1.conv1", "kernel(8,0.25)") for n in (packed, winograd)]
    assert strided[0] == strided[1], "a stride cannot be filtered"


def test_only_winograds_description_has_tasks_of_whole_kernels(lowered: Lowered) -> None:
    for variant in lowered.variants.all:
        written = network_to_json(variant.network)
        assert network_from_json(written) == variant.network
        pruned = [s["blocked"] for s in written["subgraphs"] if "blocked" in s]
        has_kernels = any("of_kernels" in p for p in pruned)
        assert has_kernels == variant.exported.uses_winograd, "older recordings have no such thing"


def test_weights_that_are_not_pruned_by_their_scheme_are_refused(lowered: Lowered) -> None:
    variant = lowered.variants.all[1]
    plan = Plan(lowered.network.dense.widths, (("fc", "block(5,0.5)"),))
    whole = state_arrays(lowered.model)
    with pytest.raises(ModelError, match=r"fc\.weight: a block of 5 channels holds"):
        variant.lowered(plan).arguments(whole)
