"""What is known of a task before anything is timed:

its shape, the work in it, and how fast the device could be.

The features that `predictor` learns from, and where its samples come from. A task is described as
the network
states it, not in the form that it is compiled in: a search asks what a subgraph costs in the form
chosen for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache.store import CostStore

__all__ = ["FEATURES", "Sample", "bound_s", "features", "kind", "stored_samples"]

_TENSOR = re.compile(r"\d+(?:x\d+)*")
_BYTES = 4  # of a float32
_TRANSPOSE = (
    "transpose to "  # the compiler's own tasks between two layouts: no subgraph of a network
)


@dataclass(frozen=True)
class Sample:
    """A measured task, and where it was measured.

    Attributes:
        workload: the task.
        cost: what it took.
        device: figures of the device.
        origin: the network it was measured for, or another name for what it should not be judged
            by: intervals
            are calibrated on one origin at a time, by a model that has not seen it.
        is_anchor: known whenever something of its origin is to be predicted, as a dense network's
            tasks are in a
            search: the model that calibrates may see it, and is not judged on it.
    """

    workload: Workload
    cost: TaskCost
    device: DeviceDescriptor
    origin: str
    is_anchor: bool = False


def kind(workload: Workload) -> str:
    """What a task is apart from its size, the same in every form."""
    operator = workload.operator
    residuals, activated = _epilogue(workload)
    return (
        f"{operator.name} {operator.kernel}x{operator.kernel}/{operator.stride}"
        + " +map" * residuals
        + " activated" * activated
    )


def _epilogue(workload: Workload) -> tuple[int, bool]:
    """Maps that a convolution adds to its own (the bias is the first addition), and whether an
    activation follows.
    """
    is_weighted = workload.operator.name != "other"
    return max(
        0, workload.family.count("add(") - is_weighted
    ), "relu" in workload.family or "clip(" in workload.family


def bytes_moved(workload: Workload) -> int:
    """Bytes of all its arguments and its result, read off the shapes that end its key."""
    shapes = workload.key.rpartition("|")[2]
    sizes = [math.prod(int(n) for n in tensor.split("x")) for tensor in _TENSOR.findall(shapes)]
    operator = workload.operator
    area = operator.height**2
    return _BYTES * max(
        sum(sizes), area * workload.channels_out + area * operator.stride**2 * workload.channels_in
    )


def bound_s(workload: Workload, device: DeviceDescriptor) -> float:
    """Seconds that a task takes where the device is at its measured best:

    the unit in which latencies are predicted.

    The largest of arithmetic at the peak, bytes at the bandwidth, and a launch. No strict bound: a
    map that
    lies in a cache moves faster than the copy that the bandwidth was measured with.
    """
    return max(
        _compute_s(workload, device),
        bytes_moved(workload) / (device.bandwidth_gb_s * 1e9),
        device.launch_ns * 1e-9,
    )


def _compute_s(workload: Workload, device: DeviceDescriptor) -> float:
    peak = max(device.conv3x3_gflops, device.conv1x1_gflops)
    return 2 * workload.macs / (peak * 1e9)


KINDS = ("conv2d", "depthwise", "dense", "other")
FEATURES = (
    "bound", "compute", "bytes", "intensity", "channels in", "channels out", "narrower", "kernel", "stride", "height",
    *KINDS, "residuals", "activated", "waste", "waste half", "waste 4", "waste in", "rate",
    *(f"device: {name}" for name in DeviceDescriptor.vector_names()),
)  # fmt: skip
"""Names of the features, in order; sizes and times are logarithms."""


def features(workload: Workload, device: DeviceDescriptor) -> NDArray[np.float64]:
    """What a task and a device look like to the predictor, `(len(FEATURES),)`."""
    operator, lanes = workload.operator, device.vector_lanes
    moved, residuals = bytes_moved(workload), _epilogue(workload)
    values = [
        math.log(bound_s(workload, device)),
        math.log(max(_compute_s(workload, device), 1e-12)),
        math.log(moved),
        math.log((workload.macs + 1) / moved),
        math.log(workload.channels_in),
        math.log(workload.channels_out),
        math.log(min(workload.channels_in, workload.channels_out)),
        operator.kernel,
        operator.stride,
        math.log(operator.height),
        *(float(operator.name == name) for name in KINDS),
        *residuals,
        *(_waste(workload.channels_out, block) for block in (lanes, max(4, lanes // 2), 4)),
        _waste(workload.channels_in, 4),
        math.log(_likely_gflops(workload, device)),
        *device.vector(),
    ]
    return np.array(values, dtype=np.float64)


def _waste(channels: int, block: int) -> float:
    """Computed over useful channels where they come in blocks, as a logarithm."""
    return math.log(math.ceil(channels / block) * block / channels)


def _likely_gflops(workload: Workload, device: DeviceDescriptor) -> float:
    """The figure of the probe that is most like a task;

    between the small and the large one by channels.
    """
    operator = workload.operator
    if operator.name == "depthwise":
        return device.depthwise_gflops
    if operator.name != "conv2d":
        return device.dense_gflops
    small, large = (
        (device.conv1x1_small_gflops, device.conv1x1_gflops)
        if operator.kernel == 1
        else (device.conv3x3_small_gflops, device.conv3x3_gflops)
    )
    share = min(1.0, max(0.0, math.log(max(workload.channels_in, 1) / 8) / math.log(128 / 8)))
    return math.exp((1 - share) * math.log(small) + share * math.log(large))


def stored_samples(store: CostStore, context: str, device: DeviceDescriptor) -> list[Sample]:
    """The tasks that a cost cache holds of a device, each at the fastest of the forms it was timed
    in.

    A subgraph costs what it costs in the form chosen for it, so that is what a sample says;
    transposes
    between forms, a few percent of a network, are not in it, nor are layers that are pruned by a
    scheme. A cache does not know what network a task
    belongs to: the origin of a sample is its kind and its map.

    Args:
        store: the cache.
        context: whose trials (see `CostStore`).
        device: figures of the device of that context.

    Returns:
        A sample for each shape. The widest of each origin is an anchor: dense networks are tuned
        before anything is predicted.
    """
    best: dict[tuple[str, int, int, int], Sample] = {}
    for workload, trial in store.fastest(context):
        latency_s = trial.measurement.latency_s
        if (
            workload.family.startswith(_TRANSPOSE)
            or workload.is_block_sparse
            or not 0 < latency_s < math.inf
        ):
            continue
        shape = (
            kind(workload),
            workload.operator.height,
            workload.channels_in,
            workload.channels_out,
        )
        if shape not in best or latency_s < best[shape].cost.latency_s:
            cost = TaskCost(latency_s=latency_s, spread=trial.measurement.spread)
            best[shape] = Sample(workload, cost, device, f"{shape[0]} at {shape[1]}")
    widest: dict[str, Sample] = {}
    for sample in best.values():
        if sample.origin not in widest or _size(sample) > _size(widest[sample.origin]):
            widest[sample.origin] = sample
    return [replace(s, is_anchor=s is widest[s.origin]) for s in best.values()]


def _size(sample: Sample) -> int:
    return sample.workload.channels_in * sample.workload.channels_out


def feature_rows(tasks: Iterable[tuple[Workload, DeviceDescriptor]]) -> NDArray[np.float64]:
    """Features of several tasks, `(n_tasks, len(FEATURES))`."""
    rows: Sequence[NDArray[np.float64]] = [features(workload, device) for workload, device in tasks]
    return np.stack(rows) if rows else np.empty((0, len(FEATURES)))
