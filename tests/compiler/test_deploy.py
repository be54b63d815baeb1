"""Deployment: the whole network scheduled, built and timed in turns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import tvm
from tvm.s_tir.meta_schedule.tune_context import _normalize_mod

from cprune_rl.compiler.deploy.apply_schedules import apply_schedules
from cprune_rl.compiler.deploy.build import build_network
from cprune_rl.compiler.deploy.run_networks import run_library, run_on_device
from cprune_rl.compiler.deploy.time_networks import (
    Rounds,
    SideBySide,
    compare_libraries,
    time_interleaved,
)
from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.export.weight_sources import state_arrays
from cprune_rl.compiler.layouts.compose import compose
from cprune_rl.compiler.tuning.schedule import ScheduleTrace, random_candidates
from cprune_rl.core.intervals import Interval
from cprune_rl.errors import DeviceError, ModelError
from tests.conftest import Lowered
from tests.doubles.device_fixtures import build_doubling_network

SHAPE = (1, 4)


@pytest.fixture(scope="module")
def composed(lowered: Lowered) -> tvm.IRModule:
    """The dense network as one module, before any schedule."""
    choice = lowered.variants.uniform_choice(0)
    weights = state_arrays(lowered.model)
    return compose(lowered.variants, lowered.network.dense, choice, weights).module


@pytest.fixture(scope="module")
def traces(composed: tvm.IRModule) -> dict[str, ScheduleTrace]:
    """A random schedule for each of its functions."""
    return {
        variable.name_hint: random_candidates(_normalize_mod(f), make_target(1), 1, seed=3)[0].trace
        for variable, f in composed.functions.items()
        if isinstance(f, tvm.tirx.PrimFunc)
    }


def test_a_network_with_every_function_scheduled_computes_what_torch_computes(
    lowered: Lowered, composed: tvm.IRModule, traces: dict[str, ScheduleTrace], tmp_path: Path
) -> None:
    scheduled = apply_schedules(composed, traces, make_target(1))
    for name in traces:
        assert scheduled[name].attrs["tirx.is_scheduled"]
        assert "tirx.is_scheduled" not in (composed[name].attrs or {}), "the input stays as it was"
    tvm.compile(scheduled, target=make_target(1)).export_library(str(tmp_path / "net.so"))
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = lowered.model(image).numpy()
    np.testing.assert_allclose(run_library(tmp_path / "net.so", image.numpy()), expected, atol=1e-4)


def test_a_function_without_a_schedule_is_an_error_and_not_an_untuned_one(
    composed: tvm.IRModule, traces: dict[str, ScheduleTrace]
) -> None:
    missing, *others = sorted(traces)
    with pytest.raises(ModelError, match=rf"no program was found for {missing}: .*untuned"):
        apply_schedules(composed, {name: traces[name] for name in others}, make_target(1))


def test_a_schedule_of_another_function_is_refused(
    composed: tvm.IRModule, traces: dict[str, ScheduleTrace]
) -> None:
    convolution = next(name for name in traces if "conv2d" in name)
    classifier = next(name for name in traces if "matmul" in name)
    with pytest.raises(ValueError, match="does not belong"):
        apply_schedules(composed, {**traces, classifier: traces[convolution]}, make_target(1))


def test_a_task_on_which_nothing_runs_cannot_be_deployed(lowered: Lowered, tmp_path: Path) -> None:
    tuner = SimpleNamespace(
        variants=lowered.variants,
        choice=lambda plan: lowered.variants.uniform_choice(0),
        tasks=SimpleNamespace(best_schedule=lambda workload: None),
    )
    with pytest.raises(ModelError, match="has no program that runs"):
        build_network(tuner, lowered.network.dense, lowered.model, path=tmp_path / "net.so")  # type: ignore[arg-type]
    assert not (tmp_path / "net.so").exists()


# --- timing in turns


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled network that doubles its input."""
    return build_doubling_network(tmp_path_factory.mktemp("network"))


def test_a_library_runs_alike_here_and_on_its_device(device: LocalDevice, doubling: Path) -> None:
    image = np.arange(4, dtype=np.float32).reshape(SHAPE)
    np.testing.assert_array_equal(run_library(doubling, image), image * 2)
    np.testing.assert_array_equal(run_on_device(device, doubling, image), image * 2)


def test_networks_and_others_are_timed_once_in_every_round(
    device: LocalDevice, doubling: Path
) -> None:
    calls: list[str] = []
    done: list[int] = []

    def other() -> float:
        calls.append("other")
        return 0.5

    samples = time_interleaved(
        device,
        {"a": doubling, "b": doubling},
        SHAPE,
        rounds=Rounds(3, on_round=done.append),
        others={"other": other},
    )
    assert {name: s.shape for name, s in samples.items()} == dict.fromkeys(
        ("other", "a", "b"), (3,)
    )
    assert samples["other"].tolist() == [0.5] * 3
    assert len(calls) == 3
    assert done == [1, 2, 3]
    assert min(samples["a"]) > 0


def test_networks_are_compared_with_the_first(device: LocalDevice, doubling: Path) -> None:
    timed = compare_libraries(
        device, {"dense": doubling, "pruned": doubling}, SHAPE, rounds=Rounds(3)
    )
    assert list(timed.latency_ms) == ["dense", "pruned"]
    assert list(timed.speedup) == ["pruned"]
    assert timed.latency_ms["dense"].value > 0
    assert timed.noise_floor >= 0


def test_a_library_without_a_network_is_an_error_that_says_what_failed(
    device: LocalDevice, tmp_path: Path
) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(b"no library")
    with pytest.raises(DeviceError, match=r"timing the whole network failed"):
        time_interleaved(device, {"broken": path}, SHAPE, rounds=Rounds(1))


@pytest.mark.parametrize(
    ("speedup", "noise_floor", "expected"),
    [
        (Interval(1.20, 1.10, 1.30), 0.05, True),
        (Interval(1.04, 1.02, 1.06), 0.05, False),
        (Interval(1.20, 0.99, 1.40), 0.05, False),
    ],
    ids=["beyond the noise", "within the noise", "perhaps no faster"],
)
def test_a_gain_is_beyond_the_noise_and_certain(
    speedup: Interval, noise_floor: float, expected: bool
) -> None:
    assert SideBySide({}, {"pruned": speedup}, noise_floor).is_gain("pruned") is expected
