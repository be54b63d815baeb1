"""Features of tasks, and the samples that a cost cache gives."""

from dataclasses import replace

import pytest

from cprune_rl.core.workload import OperatorKind, Workload
from cprune_rl.cost_cache import SqlStore
from cprune_rl.latency.task_features import (
    FEATURES,
    roofline_s,
    samples_from_store,
    task_features,
    task_kind,
)
from tests.doubles.stored_trials import trial
from tests.latency.measured_networks import DEVICE

EPILOGUE = "add(v0,a2){};add(v1,a3){};nn.relu(v2){}->float32|kernel=(3, 3)"
PLAIN = f'nn.conv2d(a0,a1){{data_layout="NCHW"}};{EPILOGUE}'
PACKED = f'nn.conv2d(a0,a1){{data_layout="NHWC", form=packed from NHWC}};{EPILOGUE}'
CONV = OperatorKind(name="conv2d", kernel=3, stride=1, height=16)
OTHER = OperatorKind(name="other", kernel=1, stride=1, height=16)


def workload(key: str, family: str, channels: int, macs: int, operator: OperatorKind) -> Workload:
    return Workload(
        key=key,
        family=family,
        channels_in=channels,
        channels_out=channels,
        macs=macs,
        operator=operator,
    )


def convolution(channels: int) -> Workload:
    key = f"conv|1x{channels}x16x16,{channels}x{channels}x3x3"
    return workload(key, "conv", channels, 2304 * channels**2, CONV)


def test_the_cache_gives_each_shape_at_the_fastest_of_its_variants() -> None:
    shapes = "1x8x16x16,8x8x3x3,1x8x1x1,1x8x16x16,1x8x16x16"
    plain = workload(f"{PLAIN}|{shapes}", PLAIN, 8, 147456, CONV)
    packed = workload(f"{PACKED}|{shapes}", PACKED, 8, 147456, CONV)
    transpose = workload("transpose to NHWC|1x8x16x16", "transpose to NHWC", 8, 0, OTHER)
    store = SqlStore("sqlite://")
    store.describe([plain, packed, transpose])
    for task, seconds in ((plain, 2e-5), (packed, 1e-5), (transpose, 1e-6)):
        store.add_trials("c", [trial(task.key, "p", seconds)])
    (sample,) = samples_from_store(store, "c", DEVICE)
    assert (sample.workload, sample.cost.latency_s) == (packed, 1e-5)
    assert task_kind(plain) == task_kind(packed) == "conv2d 3x3/1 +map activated"
    assert sample.origin == "conv2d 3x3/1 +map activated at 16"
    store.close()


def test_the_widest_shape_of_an_origin_is_an_anchor() -> None:
    store = SqlStore("sqlite://")
    tasks = [convolution(channels) for channels in (8, 64, 16)]
    store.describe(tasks)
    for task in tasks:
        store.add_trials("c", [trial(task.key, "p", 1e-5)])
    samples = samples_from_store(store, "c", DEVICE)
    assert {s.workload.channels_in for s in samples if s.is_anchor} == {64}
    assert len(samples) == 3
    store.close()


def test_a_roofline_grows_with_the_work_and_shrinks_with_the_device() -> None:
    small, large = convolution(8), convolution(64)
    assert roofline_s(small, DEVICE) < roofline_s(large, DEVICE)
    assert roofline_s(large, replace(DEVICE, conv3x3_gflops=200.0)) < roofline_s(large, DEVICE)
    nothing = workload("other|1x1", "other", 1, 0, OperatorKind(name="other"))
    assert roofline_s(nothing, DEVICE) == pytest.approx(1e-6), "no task is faster than a launch"
    assert task_features(small, DEVICE).shape == (len(FEATURES),)
