"""Probes a device: times a few fixed workloads for the figures that an agent sees of it.

The schedules are always the same (same seeds), so two devices are told apart by their speed and not
by luck in tuning. Timings are kept in the cost cache: a policy sees the same device in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import te

from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.devices.target import vector_width
from cprune_rl.compiler.tuning.schedule import random_candidates
from cprune_rl.compiler.tuning.trials import build_candidate
from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.protocols import Artifact, Measurement
from cprune_rl.cost_cache import CostStore, StoredTrial
from cprune_rl.errors import DeviceError

__all__ = ["N_WORKLOADS", "probe_device"]

_VERSION = 1  # of the workloads and their schedules: raise it when one changes
_COPY_LENGTH = 1 << 23


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """One workload.

    Attributes:
        figure: of `DeviceDescriptor`.
        tensors: makes its arguments, output last.
        work: in units of 1e-9 seconds at a figure of 1: floating-point operations, or bytes.
        n_schedules: random schedules that are tried.
    """

    figure: str
    tensors: Callable[[], list[Any]]
    work: float
    n_schedules: int = 8

    @property
    def key(self) -> str:
        return f"probe v{_VERSION}: {self.figure}"


def _conv(channels: int, size: int, kernel: int) -> _Probe:
    """Make the probe of a convolution in NHWC whose input is padded already."""

    def tensors() -> list[Any]:
        edge = size + kernel - 1
        image = te.placeholder((edge, edge, channels), name="image")
        weight = te.placeholder((kernel, kernel, channels, channels), name="weight")
        y = te.reduce_axis((0, kernel), name="y")
        x = te.reduce_axis((0, kernel), name="x")
        c = te.reduce_axis((0, channels), name="c")
        out = te.compute(
            (size, size, channels),
            lambda h, w, o: te.sum(image[h + y, w + x, c] * weight[y, x, c, o], axis=[y, x, c]),
            name="conv",
        )
        return [image, weight, out]

    return _Probe(
        figure=f"conv{kernel}x{kernel}{'_small' if channels < 64 else ''}_gflops",
        tensors=tensors,
        work=2.0 * channels * channels * kernel**2 * size**2,
    )


def _depthwise(channels: int = 64, size: int = 28) -> list[Any]:
    image = te.placeholder((size + 2, size + 2, channels), name="image")
    weight = te.placeholder((3, 3, channels), name="weight")
    y = te.reduce_axis((0, 3), name="y")
    x = te.reduce_axis((0, 3), name="x")
    out = te.compute(
        (size, size, channels),
        lambda h, w, c: te.sum(image[h + y, w + x, c] * weight[y, x, c], axis=[y, x]),
        name="depthwise",
    )
    return [image, weight, out]


def _dense(size: int = 512) -> list[Any]:
    vector = te.placeholder((size,), name="vector")
    matrix = te.placeholder((size, size), name="matrix")
    k = te.reduce_axis((0, size), name="k")
    out = te.compute((size,), lambda i: te.sum(vector[k] * matrix[k, i], axis=k), name="dense")
    return [vector, matrix, out]


def _copy(length: int) -> list[Any]:
    source = te.placeholder((length,), name="source")
    two = tvm.tirx.const(2.0, "float32")
    return [source, te.compute((length,), lambda i: source[i] * two, name="copy")]


_PROBES = (
    _conv(128, 14, 3),
    _conv(8, 32, 3),
    _conv(128, 14, 1),
    _conv(8, 32, 1),
    _Probe(figure="depthwise_gflops", tensors=_depthwise, work=2.0 * 64 * 9 * 28**2),
    _Probe(figure="dense_gflops", tensors=_dense, work=2.0 * 512**2),
    _Probe(
        figure="bandwidth_gb_s",
        tensors=lambda: _copy(_COPY_LENGTH),
        work=8.0 * _COPY_LENGTH,
        n_schedules=3,
    ),
    _Probe(figure="launch_ns", tensors=lambda: _copy(1), work=0.0, n_schedules=1),
)
N_WORKLOADS = len(_PROBES)


def probe_device(
    device: RpcDevice,
    store: CostStore | None = None,
    on_workload: Callable[[int], None] | None = None,
) -> DeviceDescriptor:
    """Measure a device's figures, or read them where they were measured before.

    Args:
        device: what to probe.
        store: keeps every trial; None measures afresh and keeps nothing.
        on_workload: called with the number of workloads done after each.

    Raises:
        DeviceError: the device is gone, or runs no schedule of a workload; nothing is kept of that
            workload then.
        ToolchainError: nothing can be built here at all.
    """
    figures: dict[str, float] = {}
    for done, probe in enumerate(_PROBES, start=1):
        seconds = _fastest(device, probe, store).latency_s
        is_time = probe.figure == "launch_ns"
        figures[probe.figure] = seconds * 1e9 if is_time else probe.work / seconds / 1e9
        if on_workload is not None:
            on_workload(done)
    return DeviceDescriptor(
        threads=int(device.target.attrs["num-cores"]),
        vector_lanes=vector_width(device.target),
        **figures,
    )


def _fastest(device: RpcDevice, probe: _Probe, store: CostStore | None) -> Measurement:
    """Return the measurement of the fastest schedule."""
    stored = store.trials(device.context, probe.key) if store is not None else []
    if stored and stored[0].measurement.error is None:
        return stored[0].measurement
    trials = _measure(device, probe)
    fastest = min(
        (trial.measurement for trial in trials),
        key=lambda measurement: measurement.latency_s,
        default=Measurement(error="no program fits this workload"),
    )
    if fastest.error is not None:
        raise DeviceError(
            f"probe workload {probe.figure} does not run on {device.name}: {fastest.error}"
        )
    if store is not None:
        store.add_trials(device.context, trials)
    return fastest


def _measure(device: RpcDevice, probe: _Probe) -> list[StoredTrial]:
    """Build two at a time and time them; the libraries go with the device."""
    function = te.create_prim_func(probe.tensors()).with_attr("global_symbol", "main")
    module = tvm.IRModule({"main": function})
    candidates = random_candidates(module, device.target, probe.n_schedules, seed=1)
    paths = [device.build_folder / f"probe{i}.so" for i in range(len(candidates))]
    with ThreadPoolExecutor(2) as pool:  # threads will do: the compiler releases Python's lock
        built = list(pool.map(lambda *pair: build_candidate(device, *pair), candidates, paths))
    timed = iter(device.time([b for b in built if isinstance(b, Artifact)]))
    return [
        StoredTrial(
            workload=probe.key,
            trace_digest=candidate.trace.digest,
            trace_json=candidate.trace.json,
            measurement=next(timed) if isinstance(b, Artifact) else b,
        )
        for candidate, b in zip(candidates, built, strict=True)
    ]
