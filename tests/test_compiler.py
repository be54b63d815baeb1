"""Lowering, programs, the device and the tuner, on real tasks of a real network."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm.s_tir import Schedule
from tvm.script import ir as I
from tvm.script import tirx as T
from tvm_ffi import structural_equal, structural_hash

from cprune_rl.compiler import target as target_module
from cprune_rl.compiler.deploy import build_network, export_torch, run_library, time_interleaved
from cprune_rl.compiler.device import LocalDevice, open_device
from cprune_rl.compiler.lower import describe_network, task_modules
from cprune_rl.compiler.program import Program, carry_over, random_candidates, tile_factors
from cprune_rl.compiler.target import make_target
from cprune_rl.compiler.tuner import Tuner, TunerSettings
from cprune_rl.compiler.workload import ExportedNetwork
from cprune_rl.contracts import Artifact, Measurement
from cprune_rl.cost_cache import open_store
from cprune_rl.errors import ConfigError, ModelError, ToolchainError, UnknownNameError
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import kept_indices, prune
from cprune_rl.table import Network, Plan

from .conftest import Lowered, lower

SMALL = TunerSettings(n_dense=2, n_pool=1, n_random=1)


# --- lowering


def test_the_same_network_gives_the_same_table_twice(lowered: Lowered) -> None:
    assert lower("resnet8-w8").network == lowered.network


def test_every_task_knows_its_layers(lowered: Lowered) -> None:
    layers = [layer for s in lowered.network.subgraphs for layer in s.layers]
    convolutions = [n for n, m in lowered.model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert sorted(layers) == sorted(convolutions)


@pytest.mark.parametrize("name", ["resnet8-w8", "vgg-small"])
def test_a_rebuilt_plan_has_the_tasks_of_the_pruned_network_exported_again(name: str) -> None:
    net = lower(name)
    plan = net.network.uniform(0.6)
    rebuilt = task_modules(net.network, net.exported, plan)
    pruned = prune(net.model, net.example, kept_indices(net.coupled, plan))
    fresh = ExportedNetwork.export(pruned, net.example, {}, make_target(1)).lowered({})
    again = {structural_hash(fresh.task(c.function)) for c in fresh.calls}
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
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(256, 5)
    )
    model.eval()
    example = torch.zeros(1, 3, 8, 8)
    coupled = find_groups(model, example)
    exported = ExportedNetwork.export(model, example, coupled.axes, make_target(1))
    network: Network = describe_network("depthwise", exported, coupled.groups)
    assert [s.template.operator.name for s in network.subgraphs if s.layers] == ["conv2d", "depthwise", "conv2d", "dense"]
    plan = network.uniform(0.5)
    pruned = prune(model, example, kept_indices(coupled, plan))
    fresh = ExportedNetwork.export(pruned, example, {}, make_target(1)).lowered({})
    assert {structural_hash(m) for m in task_modules(network, exported, plan).values()} == {structural_hash(fresh.task(c.function)) for c in fresh.calls}


# --- programs

GET_LOOPS = ["GetLoops", ["b0"], [], ["l0", "l1", "l2", "l3"]]


@pytest.mark.parametrize("split", [(4, 2, 1, 8), (1, 1, 1, 64), (64, 1, 1, 1)])
def test_tile_factors_are_read_off_the_channel_loop(split: tuple[int, ...]) -> None:
    instructions = [
        ["GetSBlock", [], ["conv2d_nchw", "main"], ["b0"]],
        GET_LOOPS,
        ["SamplePerfectTile", ["l0"], [4, 64], ["v0", "v1", "v2", "v3"]],
        ["SamplePerfectTile", ["l1"], [4, 64], ["v4", "v5", "v6", "v7"]],
        ["SamplePerfectTile", ["l2"], [4, 64], ["v8", "v9", "v10", "v11"]],
    ]
    assert tile_factors([instructions, [[2, [1, 1, 1, 1]], [3, list(split)], [4, [2, 2, 2, 2]]]]) == split


@pytest.mark.parametrize("split", [[2, 1, 2, 2], [1, 8, 1, 1]])
def test_tile_factors_of_a_scheduled_convolution_are_those_it_was_split_by(lowered: Lowered, split: list[int]) -> None:
    module = conv_task(lowered, lowered.network.dense)[1]  # held: a schedule that owns its function alone changes it in place
    schedule = Schedule(module)
    loops = schedule.get_loops(schedule.get_sblock("conv2d_nchw"))
    for loop, factors in ((loops[1], split), (loops[2], [4, 2, 2, 2])):
        schedule.split(loop, schedule.sample_perfect_tile(loop, n=4, decision=factors))
    assert Program.of(schedule.trace).tile_factors == tuple(split)


def test_a_trace_that_does_not_tile_has_no_factors() -> None:
    assert tile_factors([[["GetSBlock", [], ["add", "main"], ["b0"]], GET_LOOPS], []]) == ()


def conv_task(lowered: Lowered, plan: Plan) -> tuple[str, tvm.IRModule]:
    workload = lowered.network.workloads(plan)[1]
    return workload.key, task_modules(lowered.network, lowered.exported, plan)[workload.key]


def test_a_program_carries_over_to_every_width_and_its_factors_follow(lowered: Lowered) -> None:
    target = make_target(1)
    dense, plan = lowered.network.dense, lowered.network.dense
    program = random_candidates(conv_task(lowered, dense)[1], target, 1, seed=0)[0].program
    assert np.prod(program.tile_factors) == 8
    at = lowered.network.group_index["blocks.0.conv1"]
    for width in (8, 7, 6, 4, 3):
        widths = list(plan.widths)
        widths[at] = width
        candidate = carry_over(program, conv_task(lowered, Plan(tuple(widths)))[1], target)
        assert candidate is not None
        assert np.prod(candidate.program.tile_factors) == width
    same = carry_over(program, conv_task(lowered, dense)[1], target)
    assert same is not None
    assert same.program == program


def test_a_program_of_another_family_does_not_fit(lowered: Lowered) -> None:
    modules = task_modules(lowered.network, lowered.exported, lowered.network.dense)
    workloads = lowered.network.workloads(lowered.network.dense)
    program = random_candidates(modules[workloads[2].key], make_target(1), 1, seed=0)[0].program
    assert carry_over(program, modules[workloads[-1].key], make_target(1)) is None


def test_the_same_seed_draws_the_same_programs(lowered: Lowered) -> None:
    module = conv_task(lowered, lowered.network.dense)[1]
    draws = [[c.program.digest for c in random_candidates(module, make_target(1), 3, seed)] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert Program(json.dumps(json.loads(random_candidates(module, make_target(1), 1, 1)[0].program.trace_json))).digest == draws[0][0]


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
    return Artifact(str(path), ((4,),), ("float32",))


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
    old = device._server._process
    old.kill()
    old.wait()
    hung, after = device.time([artifact(device, Hangs, "hangs"), good])
    assert device._server._process.pid != old.pid
    assert hung.error
    assert after.error is None


def test_a_library_that_is_none_is_an_error_value(device: LocalDevice) -> None:
    path = device.build_folder / "none.so"
    path.write_text("not a library")
    assert device.time([Artifact(str(path), ((4,),), ("float32",))])[0].error


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolchainError, match=r"apt-get install g\+\+"):
        target_module.require_cxx_compiler()


@pytest.mark.parametrize(("spec", "error"), [("lokal", UnknownNameError), ("local?threads=0", ConfigError), ("local?threads=999", ConfigError), ("local?cores=1", ConfigError)])
def test_a_device_that_is_not_there_is_a_clear_error(spec: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="local"):
        open_device(spec)


# --- the tuner


@pytest.mark.slow
def test_a_second_search_makes_no_fresh_trial_for_what_the_first_one_timed(lowered: Lowered, device: LocalDevice, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/costs.db")
    narrow = lowered.network.uniform(0.5)
    first = Tuner(lowered.network, lowered.exported, device, store, SMALL)
    first.tune_dense()
    costs = first.measure(narrow)
    assert all(c.error is None and c.tile_factors for c in costs if c.latency_s > 1e-6)
    assert first.spending.fresh_trials > 10
    first.exchange([lowered.network.dense, narrow])
    second = Tuner(lowered.network, lowered.exported, device, store, SMALL)
    second.tune_dense()
    assert second.predict(lowered.network.workloads(narrow)) == costs, "what was measured is known without measuring"
    assert second.measure(narrow) == costs, "what later trials found does not change a search's way"
    second.exchange([lowered.network.dense, narrow])
    assert second.spending.fresh_trials == 0
    assert second.spending.cached_trials > 10
    pairs = zip(lowered.network.workloads(lowered.network.dense), lowered.network.workloads(narrow), strict=True)
    assert all(second.n_trials(dense) >= second.n_trials(pruned) for dense, pruned in pairs if dense.macs)
    store.close()


class Broken(LocalDevice):
    """A device on which every program crashes."""

    def time(self, artifacts: Sequence[Artifact]) -> list[Measurement]:
        return [Measurement(error="crashed") for _ in artifacts]


def test_a_failed_trial_is_a_value_in_the_cache_and_is_not_tried_again(lowered: Lowered) -> None:
    store = open_store(None)
    with Broken() as broken:
        first, second = (Tuner(lowered.network, lowered.exported, broken, store, TunerSettings(1, 1, 1)) for _ in range(2))
        first.tune_dense()
        costs = first.measure(lowered.network.dense)
        assert {c.error for c in costs} == {"crashed"}
        trials = store.trials(first.context, lowered.network.workloads(lowered.network.dense)[0].key)
        assert [t.measurement.error for t in trials] == ["crashed"]
        second.tune_dense()
        assert second.spending.fresh_trials == 0
    store.close()


@pytest.mark.slow
def test_a_search_outlives_its_server(lowered: Lowered, device: LocalDevice) -> None:
    store = open_store(None)
    tuner = Tuner(lowered.network, lowered.exported, device, store, TunerSettings(2, 1, 1))
    device.time([artifact(device, Works, "works")])
    killers = [threading.Timer(after, lambda: device._server._process.kill()) for after in (0.5, 1.5)]
    for killer in killers:
        killer.start()
    tuner.tune_dense()
    assert all(c.error is None for c in tuner.measure(lowered.network.uniform(0.5)))
    store.close()


@pytest.mark.slow
def test_each_search_of_a_run_pays_as_if_it_were_alone(lowered: Lowered, device: LocalDevice) -> None:
    store = open_store(None)
    tuner = Tuner(lowered.network, lowered.exported, device, store, SMALL, since=0.0)
    tuner.tune_dense()
    narrow = lowered.network.uniform(0.5)
    a, b = tuner.view(), tuner.view()
    a.measure(narrow)
    b.measure(narrow)
    assert a.spending.fresh_trials == b.spending.fresh_trials > 0
    store.close()


@pytest.mark.slow
def test_the_compiled_network_computes_what_torch_computes(lowered: Lowered, device: LocalDevice, tmp_path: Path) -> None:
    store = open_store(None)
    tuner = Tuner(lowered.network, lowered.exported, device, store, SMALL)
    tuner.tune_dense()
    libraries = {}
    image = torch.randn(1, 3, 32, 32)
    for name, plan in (("dense", lowered.network.dense), ("narrow", lowered.network.uniform(0.5))):
        tuner.measure(plan)
        model = prune(lowered.model, lowered.example, kept_indices(lowered.coupled, plan))
        libraries[name] = tmp_path / f"{name}.so"
        build_network(lowered.network, lowered.exported, plan, model, tuner, device, libraries[name])
        with torch.no_grad():
            expected = model(image).numpy()
        np.testing.assert_allclose(run_library(libraries[name], image.numpy(), 10), expected, atol=1e-4)
        export_torch(model, (1, 3, 32, 32), tmp_path / f"{name}.pt2")
        np.testing.assert_allclose(torch.export.load(tmp_path / f"{name}.pt2").module()(image).detach().numpy(), expected, atol=1e-5)
    samples = time_interleaved(device, libraries, (1, 3, 32, 32), 3)
    assert {name: s.shape for name, s in samples.items()} == {"dense": (3,), "narrow": (3,)}
    store.close()
