"""The file of a recorded problem:

written by `cprune-rl record` and by every run, read from anywhere.

JSON, plain or gzipped. Files come from strangers, so one is read up to a limit, every value in it
is checked
before a problem is made of it, and nothing in it is run. Called by `envs.recordings`.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.json_text import dump_json
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network
from cprune_rl.core.network_json import network_from_json, network_to_json
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import OperatorKind, Workload
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.recording_checks import check_network, number, numbers, whole
from cprune_rl.errors import CPruneError, DataError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["MAX_BYTES", "Recording", "read_recording_file", "save_recorded"]

_FORMAT = 2  # 2: the descriptor is a device's figures
MAX_BYTES = 32 << 20  # unpacked; the packaged ones have about one
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Recording:
    """What a file of a recorded problem holds.

    Attributes:
        name: of the problem.
        network: what is pruned.
        costs: the tasks that were timed.
        loss_model: loss model fitted to the oracle's answers.
        dense_accuracy: of the dense network, in [0, 1].
        floor: as asked for when it was recorded, relative to the dense network: 0 or less.
        descriptor: of the device.
        provenance: what was recorded where, when and by which command.
    """

    name: str
    network: Network
    costs: tuple[tuple[Workload, TaskCost], ...]
    loss_model: LossModel
    dense_accuracy: float
    floor: float
    descriptor: DeviceDescriptor
    provenance: Mapping[str, Any]


def save_recorded(
    path: Path,
    problem: Problem,
    costs: Sequence[tuple[Workload, TaskCost]],
    loss_model: LossModel,
    provenance: Mapping[str, Any],
) -> None:
    """Writes a recorded problem; gzipped where the name ends so.

    Args:
        path: file to write.
        problem: the problem that was recorded.
        costs: measured tasks.
        loss_model: loss model fitted to the oracle's answers.
        provenance: what was recorded where, when and by which command.
    """
    value = {
        "format": _FORMAT,
        "name": problem.name,
        "network": network_to_json(problem.network),
        "tasks": [
            {
                "workload": _workload_to_json(w),
                "latency_s": c.latency_s,
                "tile_factors": list(c.tile_factors),
                "lanes": c.lanes,
                "spread": round(c.spread, 5),
            }
            for w, c in costs
        ],
        "curves": {
            "scale": loss_model.scale.tolist(),
            "power": loss_model.power.tolist(),
            **({"layers": loss_model.layer_scale.tolist()} if len(loss_model.layer_scale) else {}),
        },
        "dense_accuracy": problem.dense_accuracy,
        "floor": problem.floor - problem.dense_accuracy,
        "descriptor": problem.descriptor.to_json(),
        "provenance": dict(provenance),
    }
    text = dump_json(value)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))  # equal problems, equal files
    else:
        path.write_text(text)


def read_recording_file(file: Traversable, name: str) -> Recording:
    """Reads a recorded problem.

    Args:
        file: where it is.
        name: for messages.

    Raises:
        DataError: the file is damaged, too large, no recorded problem, or of another format.
    """
    try:
        value = json.loads(_read(file), parse_constant=_refuse_constant)
        if value["format"] != _FORMAT:
            raise DataError(
                f"it has format {value['format']!r}, this version reads {_FORMAT}. Record it again with `cprune-rl record` of this version."
            )
        return _from_json(value)
    except DataError as error:
        raise DataError(f"{name!r} is no recorded problem: {error}") from error
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
        CPruneError,
    ) as error:
        raise DataError(
            f"{name!r} is no recorded problem, or a damaged one: {type(error).__name__}: {str(error)[:200]}. Record it again with `cprune-rl record`."
        ) from error


def _read(file: Traversable) -> bytes:
    """The unpacked bytes, never more than the limit of them:

    a few kilobytes can unpack to gigabytes.
    """
    with file.open("rb") as raw:
        packed = raw.read(MAX_BYTES + 1)
    if len(packed) <= MAX_BYTES and packed[:2] == _GZIP:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as unpacked:
            packed = unpacked.read(MAX_BYTES + 1)
    if len(packed) > MAX_BYTES:
        raise DataError(f"it holds more than {MAX_BYTES >> 20} MiB, which no recording does")
    return packed


def _refuse_constant(text: str) -> float:
    raise DataError(f"it holds {text}, which is no number")


def _workload_to_json(workload: Workload) -> dict[str, Any]:
    return {**vars(workload), "operator": vars(workload.operator)}


def _workload(value: Mapping[str, Any]) -> Workload:
    operator = value["operator"]
    return Workload(
        key=str(value["key"]),
        family=str(value["family"]),
        channels_in=whole(value["channels_in"], "channels", 1),
        channels_out=whole(value["channels_out"], "channels", 1),
        macs=whole(value["macs"], "MACs", 0),
        operator=OperatorKind(
            name=str(operator["name"]),
            kernel=whole(operator["kernel"], "kernel", 1),
            stride=whole(operator["stride"], "stride", 1),
            height=whole(operator["height"], "height", 1),
        ),
    )


def _task(value: Mapping[str, Any]) -> tuple[Workload, TaskCost]:
    factors = tuple(whole(f, "tile factor", 1) for f in value["tile_factors"])
    latency = number(value["latency_s"], "latency_s", 1e-12, 1e6)
    lanes, spread = (
        whole(value.get("lanes", 1), "lanes", 1),
        number(value.get("spread", 0.0), "spread", 0.0, 1e3),
    )
    return _workload(value["workload"]), TaskCost(latency, factors, lanes=lanes, spread=spread)


def _from_json(value: Mapping[str, Any]) -> Recording:
    network = network_from_json(value["network"])
    check_network(network)
    n = len(network.groups)
    accuracy = number(value["dense_accuracy"], "dense_accuracy", 0.0, 1.0)
    costs = tuple(_task(t) for t in value["tasks"])
    if missing := {w.key for w in network.workloads(network.dense)} - {w.key for w, _ in costs}:
        raise DataError(
            f"it has no latency of {len(missing)} tasks of the dense network, e.g. {min(missing)[:60]!r}"
        )
    told = value["curves"]
    of_layers = (
        numbers(told["layers"], "layers", len(network.scheme_layers), 0.0)
        if "layers" in told
        else []
    )
    loss_model = LossModel(
        np.array(numbers(told["scale"], "scale", n, 0.0)),
        np.array(numbers(told["power"], "power", n, 1e-3)),
        np.array(of_layers, float),
    )
    provenance = value["provenance"]
    if not isinstance(provenance, dict):
        raise DataError(f"its provenance is {type(provenance).__name__}, it must be an object")
    descriptor = DeviceDescriptor.from_json(value["descriptor"])
    return Recording(
        str(value["name"]),
        network,
        costs,
        loss_model,
        accuracy,
        number(value["floor"], "floor", -1.0, 0.0),
        descriptor,
        provenance,
    )
