"""What is known of a task before it is timed: its shape, its work, and its roofline on a device.

These are the features that `predictor` learns from, and the samples that it learns. A task is
described as the network states it, not in the layout variant that it is compiled in: a search asks
what a subgraph costs in the variant chosen for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache.store import CostStore, StoredTrial

__all__ = [
    "FEATURES",
    "OPERATORS",
    "LatencySample",
    "feature_matrix",
    "roofline_s",
    "samples_from_store",
    "task_features",
    "task_kind",
]

_TENSOR = re.compile(r"\d+(?:x\d+)*")
_FLOAT32_BYTES = 4
# Begins the family of the compiler's own tasks between two layouts: no subgraph of a network.
_TRANSPOSE = "transpose to "

OPERATORS = ("conv2d", "depthwise", "dense", "other")
FEATURES = (
    "bound",
    "compute",
    "bytes",
    "intensity",
    "channels in",
    "channels out",
    "narrower",
    "kernel",
    "stride",
    "height",
    *OPERATORS,
    "residuals",
    "activated",
    "waste",
    "waste half",
    "waste 4",
    "waste in",
    "rate",
    *(f"device: {name}" for name in DeviceDescriptor.vector_names()),
)
"""Names of the features, in order; sizes and times are logarithms."""


@dataclass(frozen=True, kw_only=True)
class LatencySample:
    """A measured task, and where it was measured.

    Attributes:
        workload: the task.
        cost: what it took.
        device: figures of the device.
        origin: the network that it was measured for, or another name for what should not predict
            it. Intervals are calibrated on one origin at a time, by a model not fitted on it.
        is_anchor: known whenever something of its origin is predicted, as a dense network's tasks
            are in a search. The model that calibrates may use it, and is not judged on it.
    """

    workload: Workload
    cost: TaskCost
    device: DeviceDescriptor
    origin: str
    is_anchor: bool = False


def task_kind(workload: Workload) -> str:
    """What a task is apart from its size, the same in every layout variant."""
    operator = workload.operator
    n_residuals, is_activated = _epilogue(workload)
    shape = f"{operator.name} {operator.kernel}x{operator.kernel}/{operator.stride}"
    return shape + " +map" * n_residuals + " activated" * is_activated


def roofline_s(workload: Workload, device: DeviceDescriptor) -> float:
    """Seconds that a task takes where the device is at its measured best.

    It is the largest of arithmetic at the peak, bytes at the bandwidth, and a launch. It is no
    strict bound: a map in a cache moves faster than the copy that the bandwidth was measured with.
    """
    return max(
        _compute_s(workload, device),
        _bytes_moved(workload) / (device.bandwidth_gb_s * 1e9),
        device.launch_ns * 1e-9,
    )


def task_features(workload: Workload, device: DeviceDescriptor) -> NDArray[np.float64]:
    """Features of a task on a device, `(len(FEATURES),)`."""
    operator = workload.operator
    lanes = device.vector_lanes
    n_bytes = _bytes_moved(workload)
    values = [
        math.log(roofline_s(workload, device)),
        math.log(max(_compute_s(workload, device), 1e-12)),
        math.log(n_bytes),
        math.log((workload.macs + 1) / n_bytes),
        math.log(workload.channels_in),
        math.log(workload.channels_out),
        math.log(min(workload.channels_in, workload.channels_out)),
        operator.kernel,
        operator.stride,
        math.log(operator.height),
        *(float(operator.name == name) for name in OPERATORS),
        *_epilogue(workload),
        *(_waste(workload.channels_out, block) for block in (lanes, max(4, lanes // 2), 4)),
        _waste(workload.channels_in, 4),
        math.log(_likely_gflops(workload, device)),
        *device.vector(),
    ]
    return np.array(values, dtype=np.float64)


def feature_matrix(tasks: Iterable[tuple[Workload, DeviceDescriptor]]) -> NDArray[np.float64]:
    """Features of several tasks, `(n_tasks, len(FEATURES))`."""
    rows = [task_features(workload, device) for workload, device in tasks]
    return np.stack(rows) if rows else np.empty((0, len(FEATURES)))


def samples_from_store(
    store: CostStore, context: str, device: DeviceDescriptor
) -> list[LatencySample]:
    """The tasks that a cost cache holds of a device, each in its fastest layout variant.

    A subgraph costs what it costs in the variant chosen for it, so a sample says that. Left out are
    transposes between layouts, which are a few percent of a network, and layers that a scheme
    prunes. A cache does not know the network of a task: a sample's origin is its kind and its map.

    Args:
        store: the cache.
        context: whose trials (see `CostStore`).
        device: figures of the device of that context.

    Returns:
        A sample for each shape. The widest of each origin is an anchor: dense networks are tuned
        before anything is predicted.
    """
    fastest: dict[tuple[str, int, int, int], LatencySample] = {}
    for workload, trial in store.fastest(context):
        if not _is_sample(workload, trial):
            continue
        measurement = trial.measurement
        height = workload.operator.height
        kind = task_kind(workload)
        shape = (kind, height, workload.channels_in, workload.channels_out)
        if shape not in fastest or measurement.latency_s < fastest[shape].cost.latency_s:
            fastest[shape] = LatencySample(
                workload=workload,
                cost=TaskCost(latency_s=measurement.latency_s, spread=measurement.spread),
                device=device,
                origin=f"{kind} at {height}",
            )
    widest: dict[str, LatencySample] = {}
    for sample in fastest.values():
        if sample.origin not in widest or _size(sample) > _size(widest[sample.origin]):
            widest[sample.origin] = sample
    return [replace(s, is_anchor=s is widest[s.origin]) for s in fastest.values()]


def _is_sample(workload: Workload, trial: StoredTrial) -> bool:
    if workload.family.startswith(_TRANSPOSE) or workload.is_block_sparse:
        return False
    return 0 < trial.measurement.latency_s < math.inf


def _size(sample: LatencySample) -> int:
    return sample.workload.channels_in * sample.workload.channels_out


def _epilogue(workload: Workload) -> tuple[int, bool]:
    """How many maps an operator adds to its own, and whether an activation follows.

    The first addition of an operator with weights is its bias.
    """
    has_weights = workload.operator.name != "other"
    n_residuals = max(0, workload.family.count("add(") - has_weights)
    is_activated = "relu" in workload.family or "clip(" in workload.family
    return n_residuals, is_activated


def _bytes_moved(workload: Workload) -> int:
    """Bytes of all its arguments and its result, read off the shapes that end its key."""
    shapes = workload.key.rpartition("|")[2]
    sizes = [math.prod(map(int, tensor.split("x"))) for tensor in _TENSOR.findall(shapes)]
    operator = workload.operator
    area_out = operator.height**2
    area_in = area_out * operator.stride**2
    maps = area_out * workload.channels_out + area_in * workload.channels_in
    return _FLOAT32_BYTES * max(sum(sizes), maps)


def _compute_s(workload: Workload, device: DeviceDescriptor) -> float:
    peak = max(device.conv3x3_gflops, device.conv1x1_gflops)
    return 2 * workload.macs / (peak * 1e9)


def _waste(channels: int, block: int) -> float:
    """Computed over useful channels where they come in blocks, as a logarithm."""
    return math.log(math.ceil(channels / block) * block / channels)


def _likely_gflops(workload: Workload, device: DeviceDescriptor) -> float:
    """The probe's figure that is most like a task; by channels between the small and the large."""
    operator = workload.operator
    if operator.name == "depthwise":
        return device.depthwise_gflops
    if operator.name != "conv2d":
        return device.dense_gflops
    if operator.kernel == 1:
        small, large = device.conv1x1_small_gflops, device.conv1x1_gflops
    else:
        small, large = device.conv3x3_small_gflops, device.conv3x3_gflops
    # The probe's convolutions have 8 and 128 channels.
    share = math.log(max(workload.channels_in, 1) / 8) / math.log(128 / 8)
    share = min(1.0, max(0.0, share))
    return math.exp((1 - share) * math.log(small) + share * math.log(large))
