"""The way in through torch.export: what is exported and compiled is what torch computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.export.capture import capture_program
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.errors import ModelError
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.compiler.compiled import assert_compiled_equals_torch, layout_variants
from tests.compiler.computing_networks import COMPUTING_NETWORKS
from tests.compiler.user_networks import EXAMPLE, NETWORKS, NormByTheBatch, made


def image() -> torch.Tensor:
    return torch.randn(EXAMPLE.shape, generator=torch.Generator().manual_seed(1))


ALL = {**NETWORKS, **COMPUTING_NETWORKS}


@pytest.mark.parametrize("name", ALL)
def test_a_users_network_is_pruned_and_compiled_to_what_torch_computes(
    name: str, tmp_path: Path
) -> None:
    model = made(ALL[name])
    names = list(model.state_dict())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        expected = model(image())
    coupled = find_groups(model, EXAMPLE)
    variants = layout_variants(model, EXAMPLE, coupled)
    network = variants.network
    macs = sum(task.macs for task in network.workloads(network.dense))
    assert macs == counter.get_total_flops() // 2
    # All variants in one network, so that it is compiled once.
    choice = variants.choice([at % len(variants.all) for at in range(len(network.subgraphs))])
    plan = network.uniform(0.6)
    pruned = prune(model, coupled, plan)
    assert_compiled_equals_torch(variants, plan, choice, pruned, tmp_path)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(image()), expected, atol=0, rtol=0)


def test_each_call_of_a_convolution_has_the_norm_that_follows_it() -> None:
    model = made(NETWORKS["a convolution run twice with norms of its own"])
    _, editor = capture_program(model, EXAMPLE, {})
    sources = [s for s in editor.sources.values() if s.label == "again.weight"]
    state = model.state_dict()
    folded = [source.compute(state) for source in sources[-2:]]
    for weights, norm in zip(folded, model.get_submodule("norms"), strict=True):
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        expected = state["again.weight"] * scale[:, None, None, None]
        torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("is_function", [False, True])
def test_a_norm_by_the_batch_is_one_line_that_names_it(is_function: bool) -> None:
    model = made(NormByTheBatch)
    if is_function:
        model.set_submodule("norm", ByTheBatch(16))
    with pytest.raises(ModelError, match=r"batch norm norm uses .*track_running_stats=True"):
        capture_program(model, EXAMPLE, {})


class ByTheBatch(nn.BatchNorm2d):
    """A norm that never uses what it has seen before."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, 0.0
        )


class Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_max_pool2d(x, 3).flatten(1)


def test_an_operator_that_tvm_lacks_is_one_line_that_names_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Sorting())
    with pytest.raises(ModelError, match=r"no counterpart .*adaptive_max_pool2d \(in 1\)"):
        ExportedNetwork.export(model, EXAMPLE, {}, make_target(1))


@pytest.mark.parametrize("name", ["code", "graph"])
def test_a_name_that_the_export_keeps_for_itself_is_one_line(name: str) -> None:
    model = nn.Sequential()
    model.add_module(name, nn.Conv2d(3, 8, 3))
    with pytest.raises(ModelError, match=f"is called '{name}'.*give it another name"):
        capture_program(model, EXAMPLE, {})


def test_what_is_only_kept_holds_no_channels() -> None:
    model = made(COMPUTING_NETWORKS["means that are only kept"])
    assert {group.name for group in find_groups(model, EXAMPLE).groups} == {"stem.0", "last.0"}


class Deciding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.mean() > 0 else -x


class Counting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.abs().max().item() > 0)


@pytest.mark.parametrize("part", [Deciding, Counting])
def test_what_depends_on_an_images_values_is_one_line_that_names_the_place(
    part: type[nn.Module], capfd: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), part())
    with pytest.raises(
        ModelError, match=r"forward \(.*test_capture.py:\d+\): .*torch.where"
    ) as raised:
        capture_program(model, EXAMPLE, {})
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_orthogonal_weights_are_computed_at_build_time() -> None:
    layer = nn.utils.parametrizations.orthogonal(nn.Conv2d(8, 8, 1))
    program, editor = capture_program(nn.Sequential(nn.Conv2d(3, 8, 3), layer), EXAMPLE, {})
    (source,) = [s for s in editor.sources.values() if s.label == "1.computed"]
    weight = source.compute(nn.Sequential(nn.Identity(), layer).state_dict())
    torch.testing.assert_close(weight, layer.weight)
    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert called == {torch.ops.aten.convolution.default}
