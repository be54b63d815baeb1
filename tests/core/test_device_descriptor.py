"""The probe, and what an agent sees of a device."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.target import vector_width
from cprune_rl.compiler.tuning.probe import N_WORKLOADS, probe_device
from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE, DeviceDescriptor
from cprune_rl.cost_cache import open_store
from cprune_rl.envs import CPruneEnv
from cprune_rl.envs.observation import FEATURES
from cprune_rl.errors import DataError
from cprune_rl.testing import toy_problem


def test_a_probe_gives_every_figure_and_is_remembered(device: LocalDevice) -> None:
    store = open_store(None)
    n_done: list[int] = []
    first = probe_device(device, store, n_done.append)
    assert n_done == list(range(1, N_WORKLOADS + 1))
    assert len(first.vector()) == len(first.vector_names()) <= 8
    assert all(-0.6 < v < 1.6 for v in first.vector())
    assert (first.threads, first.vector_lanes) == (1, vector_width(device.target))
    assert all(v > 0 for v in first.to_json().values())
    assert probe_device(device, store) == first, "the same device in every run"
    store.close()


@given(
    st.lists(st.floats(1e-3, 1e6), min_size=8, max_size=8), st.integers(1, 256), st.integers(1, 64)
)
def test_a_descriptor_survives_its_file(figures: list[float], threads: int, lanes: int) -> None:
    names = list(UNKNOWN_DEVICE.to_json())
    counts = {"threads": threads, "vector_lanes": lanes}
    descriptor = DeviceDescriptor(**dict(zip(names, figures, strict=False)), **counts)
    assert DeviceDescriptor.from_json(json.loads(json.dumps(descriptor.to_json()))) == descriptor


def test_nothing_known_of_a_device_is_a_vector_of_zeros() -> None:
    assert set(UNKNOWN_DEVICE.vector()) == {0.0}


@pytest.mark.parametrize(
    "damage",
    [{"threads": 0}, {"launch_ns": float("nan")}, {"colour": 1}, {"conv3x3_gflops": "fast"}],
)
def test_a_damaged_descriptor_is_a_clear_error(damage: dict[str, float]) -> None:
    with pytest.raises(DataError, match="device descriptor"):
        DeviceDescriptor.from_json({**UNKNOWN_DEVICE.to_json(), **damage})


def test_an_agent_sees_the_descriptor_on_every_row() -> None:
    descriptor = DeviceDescriptor(conv3x3_gflops=100.0, threads=4)
    obs, _ = CPruneEnv(replace(toy_problem(), descriptor=descriptor)).reset(seed=0)
    rows = obs[obs[:, 0] > 0]
    for name, value in zip(descriptor.vector_names(), descriptor.vector(), strict=True):
        np.testing.assert_allclose(rows[:, FEATURES.index(f"device_{name}")], value, rtol=1e-5)
