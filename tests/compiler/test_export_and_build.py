"""Lowering, programs, the device and the tuner, on real tasks of a real network."""

from __future__ import annotations

import pytest
import torch
import tvm
from torch import nn
from tvm.script import ir as I
from tvm.script import tirx as T
from tvm_ffi import structural_equal, structural_hash

from cprune_rl.compiler.devices import target as target_module
from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.export.describe import describe_network
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import Artifact
from cprune_rl.errors import ConfigError, ModelError, ToolchainError, UnknownNameError
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.conftest import Lowered, lower, lower_anew

# --- lowering


def task_modules(
    network: Network, exported: ExportedNetwork, plan: Plan
) -> dict[str, tvm.IRModule]:
    """The function of each distinct task of a plan, by the workload's key."""
    lowered = exported.lowered(network.widths(plan), network.schemes_by_layer(plan))
    keys = [workload.key for workload in network.workloads(plan)]
    return {key: lowered.task(call) for key, call in zip(keys, lowered.calls, strict=True)}


def test_the_same_network_gives_the_same_table_twice(lowered: Lowered) -> None:
    assert lower_anew("resnet8-w8").network == lowered.network


def test_every_task_knows_its_layers(lowered: Lowered) -> None:
    layers = [layer for s in lowered.network.subgraphs for layer in s.layers]
    convolutions = [
        n for n, m in lowered.model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    assert sorted(layers) == sorted(convolutions)


@pytest.mark.parametrize("name", ["resnet8-w8", "vgg-small"])
def test_a_rebuilt_plan_has_the_tasks_of_the_pruned_network_exported_again(name: str) -> None:
    net = lower(name)
    plan = net.network.uniform(0.6)
    rebuilt = task_modules(net.network, net.exported, plan)
    pruned = prune(net.model, net.coupled, plan)
    fresh = ExportedNetwork.export(pruned, net.example, {}, make_target(1)).lowered({})
    again = {structural_hash(fresh.task(c)) for c in fresh.calls}
    assert {structural_hash(m) for m in rebuilt.values()} == again


def test_equal_keys_are_equal_functions_across_networks(lowered: Lowered) -> None:
    other = lower("resnet20")
    mine = task_modules(lowered.network, lowered.exported, lowered.network.dense)
    halved = Plan(tuple(g.channels // 2 for g in other.network.groups))
    theirs = task_modules(other.network, other.exported, halved)
    shared = set(mine) & set(theirs)
    assert len(shared) >= 4
    assert all(structural_equal(mine[k], theirs[k]) for k in shared)


class Dynamic(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_does_not_export_is_an_error_of_ours() -> None:
    with pytest.raises(ModelError, match="cannot"):
        ExportedNetwork.export(Dynamic(), torch.zeros(1, 3, 8, 8), {}, make_target(1))


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
    )
    model.eval()
    example = torch.zeros(1, 3, 8, 8)
    coupled = find_groups(model, example)
    exported = ExportedNetwork.export(model, example, coupled.axes, make_target(1))
    network: Network = describe_network("depthwise", exported, coupled.groups)
    assert [s.template.operator.name for s in network.subgraphs if s.layers] == [
        "conv2d",
        "depthwise",
        "conv2d",
        "dense",
    ]
    plan = network.uniform(0.5)
    pruned = prune(model, coupled, plan)
    fresh = ExportedNetwork.export(pruned, example, {}, make_target(1)).lowered({})
    assert {structural_hash(m) for m in task_modules(network, exported, plan).values()} == {
        structural_hash(fresh.task(c)) for c in fresh.calls
    }


# --- the device


@I.ir_module
class Hangs:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32")):  # noqa: N803, N805  # TVMScript's way to write a buffer
        T.func_attr({"global_symbol": "main"})
        while A[0] < T.float32(9):
            A[0] = A[0] * T.float32(0)


@I.ir_module
class Crashes:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32")):  # noqa: N803, N805
        T.func_attr({"global_symbol": "main"})
        T.evaluate(T.call_extern("int32", "abort"))


@I.ir_module
class Works:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32")):  # noqa: N803, N805
        T.func_attr({"global_symbol": "main"})
        for i in range(4):
            A[i] = A[i] * T.float32(0.5)


def artifact(device: LocalDevice, module: tvm.IRModule, name: str) -> Artifact:
    path = device.build_folder / f"{name}.so"
    tvm.compile(module, target=device.target).export_library(str(path))
    return Artifact(path=str(path), shapes=((4,),), dtypes=("float32",))


@pytest.mark.parametrize("broken", [Hangs, Crashes], ids=["hangs", "crashes"])
def test_a_broken_program_costs_one_trial(device: LocalDevice, broken: tvm.IRModule) -> None:
    good = artifact(device, Works, "works")
    before, bad, after = device.time([good, artifact(device, broken, "broken"), good])
    assert bad.error
    assert bad.samples_s == ()
    assert before.error is None
    assert after.error is None
    assert after.latency_s > 0
    assert after.reference_s > 0


def test_a_server_killed_in_the_middle_is_started_again(device: LocalDevice) -> None:
    good = artifact(device, Works, "works")
    assert device.time([good])[0].error is None
    old = device.server_process
    old.kill()
    old.wait()
    hung, after = device.time([artifact(device, Hangs, "hangs"), good])
    assert device.server_process.pid != old.pid
    assert hung.error
    assert after.error is None


def test_a_library_that_is_none_is_an_error_value(device: LocalDevice) -> None:
    path = device.build_folder / "none.so"
    path.write_text("not a library")
    assert device.time([Artifact(path=str(path), shapes=((4,),), dtypes=("float32",))])[0].error


def test_a_machine_without_a_compiler_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolchainError, match=r"apt-get install g\+\+"):
        target_module.require_cxx_compiler()


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("lokal", UnknownNameError),
        ("local?threads=0", ConfigError),
        ("local?threads=999", ConfigError),
        ("local?cores=1", ConfigError),
    ],
)
def test_a_device_that_is_not_there_is_a_clear_error(spec: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="local"):
        open_device(spec)
