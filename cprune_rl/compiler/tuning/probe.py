"""Probes a device: times a fixed small set of workloads and gives the figures that an agent sees of
it.

Always the same programs (same seeds), so two devices are told apart by their speed and not by luck
in tuning.
What was timed is kept in the cost cache: a policy sees the same device in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import te

from cprune_rl.compiler.devices.rpc_device import RpcDevice
from cprune_rl.compiler.devices.target import vector_width
from cprune_rl.compiler.tuning.schedule import random_candidates
from cprune_rl.compiler.tuning.trials import build_candidate
from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.protocols import Artifact, Measurement
from cprune_rl.cost_cache import CostStore, StoredTrial
from cprune_rl.errors import DeviceError

__all__ = ["N_WORKLOADS", "probe_device"]

_VERSION = 1  # of the workloads and their programs: raise it when one changes
_COPY_LENGTH = 1 << 23


@dataclass(frozen=True)
class _Workload:
    """One probe.

    Attributes:
        figure: of `DeviceDescriptor`.
        tensors: makes its arguments, output last.
        work: in units of 1e-9 seconds at a figure of 1: floating-point operations, or bytes.
        n_programs: random programs that are tried.
    """

    figure: str
    tensors: Callable[[], list[Any]]
    work: float
    n_programs: int = 8

    @property
    def key(self) -> str:
        return f"probe v{_VERSION}: {self.figure}"


def _conv(channels: int, size: int, kernel: int) -> _Workload:
    """Convolution in NHWC, its input padded already."""

    def tensors() -> list[Any]:
        edge = size + kernel - 1
        image, weight = (
            te.placeholder((edge, edge, channels), name="image"),
            te.placeholder((kernel, kernel, channels, channels), name="weight"),
        )
        y, x, c = (
            te.reduce_axis((0, n), name=v)
            for n, v in ((kernel, "y"), (kernel, "x"), (channels, "c"))
        )
        out = te.compute(
            (size, size, channels),
            lambda h, w, o: te.sum(image[h + y, w + x, c] * weight[y, x, c, o], axis=[y, x, c]),
            name="conv",
        )
        return [image, weight, out]

    figure = f"conv{kernel}x{kernel}{'_small' if channels < 64 else ''}_gflops"
    return _Workload(figure, tensors, 2.0 * channels * channels * kernel**2 * size**2)


def _depthwise(channels: int = 64, size: int = 28) -> list[Any]:
    image, weight = (
        te.placeholder((size + 2, size + 2, channels), name="image"),
        te.placeholder((3, 3, channels), name="weight"),
    )
    y, x = te.reduce_axis((0, 3), name="y"), te.reduce_axis((0, 3), name="x")
    return [
        image,
        weight,
        te.compute(
            (size, size, channels),
            lambda h, w, c: te.sum(image[h + y, w + x, c] * weight[y, x, c], axis=[y, x]),
            name="depthwise",
        ),
    ]


def _dense(size: int = 512) -> list[Any]:
    vector, matrix = (
        te.placeholder((size,), name="vector"),
        te.placeholder((size, size), name="matrix"),
    )
    k = te.reduce_axis((0, size), name="k")
    return [
        vector,
        matrix,
        te.compute((size,), lambda i: te.sum(vector[k] * matrix[k, i], axis=k), name="dense"),
    ]


def _copy(length: int) -> list[Any]:
    source = te.placeholder((length,), name="source")
    return [
        source,
        te.compute((length,), lambda i: source[i] * tvm.tirx.const(2.0, "float32"), name="copy"),
    ]


_WORKLOADS = (
    _conv(128, 14, 3),
    _conv(8, 32, 3),
    _conv(128, 14, 1),
    _conv(8, 32, 1),
    _Workload("depthwise_gflops", _depthwise, 2.0 * 64 * 9 * 28**2),
    _Workload("dense_gflops", _dense, 2.0 * 512**2),
    _Workload("bandwidth_gb_s", lambda: _copy(_COPY_LENGTH), 8.0 * _COPY_LENGTH, 3),
    _Workload("launch_ns", lambda: _copy(1), 0.0, 1),
)
N_WORKLOADS = len(_WORKLOADS)


def probe_device(
    device: RpcDevice,
    store: CostStore | None = None,
    on_workload: Callable[[int], None] | None = None,
) -> DeviceDescriptor:
    """Measures a device's figures, or reads them where they were measured before.

    Args:
        device: what to probe.
        store: keeps every trial; None measures afresh and keeps nothing.
        on_workload: called with the number of workloads done after each.

    Raises:
        DeviceError: the device is gone, or runs no program of a workload; nothing is kept of that
            workload then.
        ToolchainError: nothing can be built here at all.
    """
    figures: dict[str, float] = {}
    for done, workload in enumerate(_WORKLOADS, start=1):
        seconds = _best(device, workload, store).latency_s
        figures[workload.figure] = (
            seconds * 1e9 if workload.figure == "launch_ns" else workload.work / seconds / 1e9
        )
        if on_workload is not None:
            on_workload(done)
    return DeviceDescriptor(
        threads=int(device.target.attrs["num-cores"]),
        vector_lanes=vector_width(device.target),
        **figures,
    )


def _best(device: RpcDevice, workload: _Workload, store: CostStore | None) -> Measurement:
    """The fastest program's measurement."""
    known = store.trials(device.context, workload.key) if store is not None else []
    if known and known[0].measurement.error is None:
        return known[0].measurement
    trials = _measure(device, workload)
    best = min(
        (t.measurement for t in trials),
        key=lambda m: m.latency_s,
        default=Measurement(error="no program fits this workload"),
    )
    if best.error is not None:
        raise DeviceError(
            f"probe workload {workload.figure} does not run on {device.name}: {best.error}"
        )
    if store is not None:
        store.add_trials(device.context, trials)
    return best


def _measure(device: RpcDevice, workload: _Workload) -> list[StoredTrial]:
    """Builds two at a time and times them; the libraries go with the device."""
    module = tvm.IRModule(
        {"main": te.create_prim_func(workload.tensors()).with_attr("global_symbol", "main")}
    )
    candidates = random_candidates(module, device.target, workload.n_programs, seed=1)
    with ThreadPoolExecutor(2) as pool:  # the compiler releases Python's lock
        built = list(
            pool.map(
                lambda item: build_candidate(
                    device, item[1], device.build_folder / f"probe{item[0]}.so"
                ),
                enumerate(candidates),
            )
        )
    artifacts = [b for b in built if isinstance(b, Artifact)]
    timed = iter(device.time(artifacts))
    return [
        StoredTrial(
            workload=workload.key,
            trace_digest=c.trace.digest,
            trace_json=c.trace.json,
            measurement=next(timed) if isinstance(b, Artifact) else b,
        )
        for c, b in zip(candidates, built, strict=True)
    ]
